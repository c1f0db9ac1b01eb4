// Synchronous HTTP, as scripts of the platform have it. The request is made in another thread. An https address of this machine is
// called by http: TLS is the platform's, not the application's.
import { MessageChannel, receiveMessageOnPort, Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import http from 'node:http'
import https from 'node:https'

if (!isMainThread && workerData?.wire) {
    const { port, signal } = workerData
    port.on('message', ({ url, method, headers, body, timeout }) => {
        const done = (answer) => {
            port.postMessage(answer)
            Atomics.store(signal, 0, 1)
            Atomics.notify(signal, 0)
        }
        // Only the headers of the script and of the platform are sent, none of Node's.
        const local = url.replace(/^https:(?=\/\/127\.0\.0\.1)/, 'http:')
        const request = (local.startsWith('https:') ? https : http).request(local, { method, headers, agent: false, setDefaultHeaders: false, timeout })
        request.on('timeout', () => request.destroy(new Error('Read timed out')))
        request.on('error', (error) => done({ error: error.message }))
        request.on('response', (response) => {
            const chunks = []
            response.on('data', (chunk) => chunks.push(chunk))
            response.on('error', (error) => done({ error: error.message }))
            response.on('end', () => {
                const headers = {}
                for (let i = 0; i < response.rawHeaders.length; i += 2) headers[response.rawHeaders[i]] = response.rawHeaders[i + 1]
                done({ status: response.statusCode, headers, body: Buffer.concat(chunks).toString('utf8') })
            })
        })
        request.removeHeader('Connection')
        request.end(body)
    })
    parentPort.postMessage('ready')
}

export class Wire {
    static async open() {
        const wire = new Wire()
        const { port1, port2 } = new MessageChannel()
        wire.port = port1
        wire.signal = new Int32Array(new SharedArrayBuffer(4))
        wire.worker = new Worker(new URL(import.meta.url), { workerData: { wire: true, port: port2, signal: wire.signal }, transferList: [port2] })
        await new Promise((resolve, reject) => wire.worker.once('message', resolve).once('error', reject))
        wire.worker.unref()
        wire.port.unref()
        return wire
    }

    // send returns { status, headers, body }, or { error }.
    send(request) {
        Atomics.store(this.signal, 0, 0)
        this.port.postMessage(request)
        if (Atomics.wait(this.signal, 0, 0, 60_000) === 'timed-out') throw new Error('the wire hangs')
        return receiveMessageOnPort(this.port).message
    }

    close() {
        return this.worker.terminate()
    }
}
