// bin/unassign on its simulated cloud, on a port of its own.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const binary = fileURLToPath(new URL('../../../bin/unassign', import.meta.url))

export class Function {
    // start starts the program with the settings in env, and waits until it serves.
    static async start(env = {}) {
        const f = new Function()
        f.output = ''
        f.process = spawn(binary, ['serve', '-listen', '127.0.0.1:0'], { env, stdio: ['ignore', 'pipe', 'pipe'] })
        await new Promise((resolve, reject) => {
            const more = (chunk) => {
                f.output += chunk
                if (f.output.includes('The log follows.')) resolve()
            }
            f.process.stdout.setEncoding('utf8').on('data', more)
            f.process.stderr.setEncoding('utf8').on('data', more)
            f.process.on('error', reject)
            f.process.on('exit', (code) => reject(new Error(`bin/unassign ended with ${code}: ${f.output}`)))
        })
        f.url = /curl -i (http:\/\/\S+)/.exec(f.output)[1].replace('http:', 'https:') // the wire speaks TLS
        f.apiKey = /x-api-key: (\S+?)'/.exec(f.output)[1]
        f.secret = /(whsec_\S+)/.exec(f.output)[1]
        return f
    }

    // record returns the audit record of a request.
    async record(requestId) {
        for (let i = 0; i < 100; i++) {
            const line = this.output.split('\n').find((l) => l.startsWith('{') && l.includes('"message":"unassign"') && l.includes(`"request_id":"${requestId}"`))
            if (line) return JSON.parse(line)
            await new Promise((resolve) => setTimeout(resolve, 20))
        }
        throw new Error(`no audit record of ${requestId} in ${this.output}`)
    }

    stop() {
        return new Promise((resolve) => {
            this.process.removeAllListeners('exit').on('exit', resolve)
            this.process.kill('SIGTERM')
        })
    }
}
