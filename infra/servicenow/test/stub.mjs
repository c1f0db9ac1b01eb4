// A server with prepared responses, in a thread of its own. It keeps the requests.
import { Worker, isMainThread, parentPort, receiveMessageOnPort, MessageChannel, workerData } from 'node:worker_threads'
import http from 'node:http'

if (!isMainThread && workerData?.stub) {
    const { answers, port } = workerData
    const server = http.createServer((request, response) => {
        const chunks = []
        request.on('data', (chunk) => chunks.push(chunk))
        request.on('end', () => {
            port.postMessage({ method: request.method, path: request.url, headers: request.headers, rawHeaders: request.rawHeaders, body: Buffer.concat(chunks).toString('latin1') })
            const answer = answers.length > 1 ? answers.shift() : answers[0]
            if (answer.cut) return request.socket.destroy()
            response.writeHead(answer.status, { 'X-Request-Id': 'r-1', ...answer.headers })
            response.end(answer.body ?? '')
        })
    })
    server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))
}

export class Stub {
    // serve starts a server that sends each response once, and the last one from then on.
    static async serve(...answers) {
        const stub = new Stub()
        const { port1, port2 } = new MessageChannel()
        stub.port = port1
        stub.worker = new Worker(new URL(import.meta.url), { workerData: { stub: true, answers, port: port2 }, transferList: [port2] })
        const port = await new Promise((resolve, reject) => stub.worker.once('message', resolve).once('error', reject))
        stub.worker.unref()
        stub.port.unref()
        stub.url = `https://127.0.0.1:${port}/api/unassign`
        return stub
    }

    // requests returns the requests since the last call.
    requests() {
        const got = []
        for (let m; (m = receiveMessageOnPort(this.port)); ) got.push(m.message)
        return got
    }

    close() {
        this.port.close()
        return this.worker.terminate()
    }
}
