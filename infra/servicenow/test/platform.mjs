// A double of the parts of the platform that the application uses. It runs the built records: script includes by name, rules by
// condition, events by time. It is strict: an unknown method, table or field throws, and so does a global that Rhino's ES5 lacks.
import vm from 'node:vm'
import { createHmac, randomBytes } from 'node:crypto'
import { one, records } from './built.mjs'

// Globals of Node's engine that scripts of ES5 do not have.
const tooNew = ['AggregateError', 'ArrayBuffer', 'Atomics', 'BigInt', 'BigInt64Array', 'BigUint64Array', 'DataView', 'FinalizationRegistry', 'Float32Array', 'Float64Array',
    'globalThis', 'Int16Array', 'Int32Array', 'Int8Array', 'Intl', 'Iterator', 'Map', 'Promise', 'Proxy', 'Reflect', 'Set', 'SharedArrayBuffer', 'Symbol', 'Uint16Array',
    'Uint32Array', 'Uint8Array', 'Uint8ClampedArray', 'WeakMap', 'WeakRef', 'WeakSet', 'WebAssembly', 'console']

// The fields of the tables: '' for text, 'journal', or the name of the table that a reference points to.
const tables = {
    alm_hardware: {
        asset_tag: '', display_name: '', serial_number: '', install_status: '', substatus: '', work_notes: 'journal', sys_updated_by: '', sys_mod_count: '',
        u_autopilot_id: '', u_room_account: '', request_line: 'sc_req_item',
    },
    sc_req_item: { number: '', work_notes: 'journal', sys_updated_by: '', sys_mod_count: '' },
}

const strict = (what, object) => new Proxy(object, {
    get(target, name) {
        if (name in target || typeof name === 'symbol') return target[name]
        throw new Error(`${what} has no ${name}`)
    },
})

export class Platform {
    constructor({ wire, all = records(), properties = {}, connections = {}, tokens = {}, restMessages = {}, user = 'anna.asset' }) {
        this.wire = wire
        this.all = all
        this.scope = all.find((r) => r.table === 'sys_script_include').fields.api_name.split('.')[0]
        this.properties = Object.fromEntries(all.filter((r) => r.table === 'sys_properties').map((r) => [r.fields.name, r.fields.value]))
        for (const [name, value] of Object.entries(properties)) this.set(name, value)
        this.connections = connections // alias -> attributes, with those of the credential under credential
        this.tokens = tokens // OAuth profile -> token
        this.restMessages = restMessages // 'message/function' -> { endpoint, headers, profile }
        this.user = user
        this.offset = 0 // of the clock, in milliseconds
        this.interactive = false
        this.log = []
        this.messages = []
        this.sent = []
        this.jobs = []
        this.tables = Object.fromEntries(Object.keys(tables).map((name) => [name, new Map()]))
        this.active = new Set() // sys_ids of rules that an administrator has activated
        this.context = this.makeContext()
    }

    set(name, value) {
        const full = `${this.scope}.${name}`
        if (!(full in this.properties)) throw new Error(`the application has no property ${full}`)
        this.properties[full] = value
    }

    now() {
        return Date.now() + this.offset
    }

    // insert inserts a record, as a form or an import does.
    insert(table, fields) {
        const id = randomBytes(16).toString('hex')
        this.tables[table].set(id, { sys_id: id, sys_mod_count: '0', sys_updated_by: this.user, ...fields })
        this.rules(table, id, {}, this.tables[table].get(id), 'action_insert')
        return id
    }

    // change changes a record, as a user does on a form.
    change(table, id, fields) {
        const record = new this.context.GlideRecord(table)
        if (!record.get(id)) throw new Error(`no ${table} ${id}`)
        for (const [name, value] of Object.entries(fields)) record.setValue(name, value)
        record.update()
    }

    notes(table, id) {
        return this.tables[table].get(id).work_notes ?? []
    }

    activate(name) {
        this.active.add(one(this.all, 'sys_script', 'name', name).sys_id)
    }

    // work runs the jobs that are due, and returns how many those were.
    work() {
        let n = 0
        for (;;) {
            const due = this.jobs.findIndex((job) => job.at <= this.now())
            if (due < 0) return n
            const [job] = this.jobs.splice(due, 1)
            job.run()
            n++
        }
    }

    // wait lets the clock of the instance go on until the next job is due, and runs it. It returns the seconds.
    wait() {
        const next = Math.min(...this.jobs.map((job) => job.at))
        const seconds = (next - this.now()) / 1000
        this.offset += Math.max(0, next - this.now())
        this.work()
        return seconds
    }

    // run runs a script as the platform does, with these variables.
    run(script, variables = {}) {
        const names = Object.keys(variables)
        return vm.runInContext(`(function (${names.join(', ')}) {${script}\n})`, this.context)(...Object.values(variables))
    }

    evaluate(expression) {
        return vm.runInContext(expression, this.context)
    }

    makeContext() {
        const platform = this
        const context = vm.createContext({})
        vm.runInContext(tooNew.map((name) => `delete this.${name};`).join(''), context)
        const put = (name, value) => Object.defineProperty(context, name, { value, configurable: true, writable: true })

        put('Class', { create: () => function (...args) { this.initialize(...args) } })
        put('gs', strict('gs', {
            getCurrentScopeName: () => platform.scope,
            getProperty: (name) => (name in platform.properties ? platform.properties[name] : null),
            isInteractive: () => platform.interactive,
            generateGUID: () => randomBytes(16).toString('hex'),
            getUserName: () => platform.user,
            info: (text) => platform.log.push(`info ${text}`),
            warn: (text) => platform.log.push(`warn ${text}`),
            error: (text) => platform.log.push(`error ${text}`),
            addInfoMessage: (text) => platform.messages.push(text),
            eventQueue: (...args) => platform.queue(platform.now(), ...args),
            eventQueueScheduled: (name, record, parm1, parm2, at) => platform.queue(at.getNumericValue(), name, record, parm1, parm2),
        }))

        put('GlideDateTime', class {
            constructor() { this.at = platform.now() }
            getNumericValue() { return this.at }
            getValue() { return new Date(this.at).toISOString().slice(0, 19).replace('T', ' ') }
            addSeconds(n) { this.at += n * 1000 }
        })

        // As documented: the key is base64 and decoded, the result is base64.
        put('CertificateEncryption', class {
            generateMac(key, algorithm, data) {
                if (algorithm !== 'HmacSHA256') throw new Error(`no algorithm ${algorithm}`)
                return createHmac('sha256', Buffer.from(key, 'base64')).update(data, 'utf8').digest('base64')
            }
        })

        put('sn_cc', strict('sn_cc', {
            ConnectionInfoProvider: class {
                getConnectionInfo(alias) {
                    const c = platform.connections[alias]
                    return c ? strict('ConnectionInfo', { getAttribute: (name) => c[name] ?? null, getCredentialAttribute: (name) => c.credential?.[name] ?? null }) : null
                }
            },
        }))

        put('sn_ws', strict('sn_ws', {
            RESTMessageV2: class {
                constructor(name, method) {
                    const record = name === undefined ? { headers: {} } : platform.restMessages[`${name}/${method}`]
                    if (!record) throw new Error(`no REST message ${name}/${method}`)
                    Object.assign(this, { url: record.endpoint, method: 'POST', headers: { ...record.headers } })
                    if (record.profile) this.setAuthenticationProfile('oauth2', record.profile)
                }
                // Without it, the platform replaces ${name} in a body by the variable of that name, or by nothing.
                disableForcedVariableSubstitution() { this.asItIs = true }
                setEndpoint(url) { this.url = url }
                setHttpMethod(method) { this.method = method }
                setHttpTimeout(ms) { this.timeout = ms }
                setRequestHeader(name, value) { this.headers[name] = value }
                setRequestBody(body) { this.body = body }
                setAuthenticationProfile(type, profile) {
                    if (type !== 'oauth2' || !(profile in platform.tokens)) throw new Error(`no ${type} profile ${profile}`)
                    this.headers.Authorization = `Bearer ${platform.tokens[profile]}`
                }
                execute() {
                    const body = Buffer.from(this.asItIs ? this.body : this.body.replace(/\$\{[^}]*\}/g, ''), 'utf8')
                    // The platform's own headers, as captured: no Content-Type, no Accept.
                    const headers = {
                        'Content-Length': `${body.length}`, 'X-SNC-INTEGRATION-SOURCE': 'f3a1c0d2e4b5968778695a4b3c2d1e0f', 'User-Agent': 'ServiceNow/1.0',
                        Host: new URL(this.url).host, ...this.headers,
                    }
                    platform.sent.push({ url: this.url, headers, body: this.body })
                    const answer = platform.wire.send({ url: this.url, method: this.method, headers, body, timeout: this.timeout })
                    if (answer.error) throw new Error(`${answer.error} for ${this.url}`)
                    return strict('RESTResponseV2', {
                        getStatusCode: () => answer.status,
                        getBody: () => answer.body,
                        getHeader: (name) => answer.headers[name] ?? null,
                    })
                }
            },
        }))

        put('GlideRecord', this.glideRecord())

        for (const { table, fields } of this.all) {
            if (table === 'sys_script_include' && fields.active === 'true') vm.runInContext(fields.script, context, { filename: fields.name })
        }
        return context
    }

    glideRecord() {
        const platform = this
        class GlideRecord {
            #table
            #id = null
            #changes = {}
            constructor(table) {
                if (!(table in tables)) throw new Error(`no table ${table}`)
                this.#table = table
                return new Proxy(this, {
                    // The proxy stands for the record; the methods want the record itself.
                    get: (target, name) => {
                        const value = target[name]
                        if (typeof value === 'function') return value.bind(target)
                        if (typeof name === 'symbol') return value
                        return target.getElement(name)
                    },
                    set: (target, name, value) => { target.setValue(name, value); return true },
                })
            }
            #stored() { return this.#id === null ? null : platform.tables[this.#table].get(this.#id) }
            #field(name) {
                if (name !== 'sys_id' && !(name in tables[this.#table])) throw new Error(`${this.#table} has no field ${name}`)
            }
            get(id) {
                this.#id = platform.tables[this.#table].has(id) ? id : null
                return this.#id !== null
            }
            getTableName() { return this.#table }
            getUniqueValue() { return this.#id }
            isValidRecord() { return this.#stored() !== null && this.#stored() !== undefined }
            isValidField(name) { return name in tables[this.#table] }
            getValue(name) {
                if (name !== 'sys_id' && !(name in tables[this.#table])) return null
                const value = this.#changes[name] ?? this.#stored()?.[name] ?? ''
                return value === '' ? null : `${value}`
            }
            setValue(name, value) {
                this.#field(name)
                this.#changes[name] = `${value}`
            }
            getElement(name) {
                this.#field(name)
                const value = this.getValue(name)
                return strict('GlideElement', {
                    toString: () => value ?? '',
                    getRefRecord: () => {
                        const record = new GlideRecord(tables[this.#table][name])
                        record.get(value)
                        return record
                    },
                })
            }
            update() {
                const stored = this.#stored()
                if (!stored) return null
                const before = { ...stored }
                for (const [name, value] of Object.entries(this.#changes)) {
                    if (tables[this.#table][name] === 'journal') stored[name] = [...(stored[name] ?? []), value]
                    else stored[name] = value
                }
                this.#changes = {}
                stored.sys_mod_count = `${Number(stored.sys_mod_count) + 1}`
                stored.sys_updated_by = platform.user
                platform.rules(this.#table, this.#id, before, stored, 'action_update')
                return this.#id
            }
        }
        return GlideRecord
    }

    // rules queues the asynchronous rules of a table whose condition is met. They run later, with the record as it is by then and
    // without previous.
    rules(table, id, before, after, action) {
        for (const { fields } of this.all.filter((r) => r.table === 'sys_script' && r.fields.collection === table)) {
            if (fields.when !== 'async_always') throw new Error(`the double knows no rule like ${fields.name}`)
            if (fields[action] !== 'true' || (fields.active !== 'true' && !this.active.has(fields.sys_id))) continue
            if (!meets(fields.filter_condition, before, after)) continue
            this.jobs.push({ at: this.now(), run: () => this.run(fields.script, { current: this.record(table, id), previous: null }) })
        }
    }

    record(table, id) {
        const record = new this.context.GlideRecord(table)
        record.get(id)
        return record
    }

    queue(at, name, record, parm1, parm2) {
        if (!this.all.some((r) => r.table === 'sysevent_register' && r.fields.event_name === name)) throw new Error(`the event ${name} is not registered`)
        for (const parm of [parm1, parm2]) if (`${parm}`.length > 200) throw new Error(`a parameter of ${`${parm}`.length} characters`)
        const [table, id] = [record.getTableName(), record.getUniqueValue()]
        for (const { fields } of this.all.filter((r) => r.table === 'sysevent_script_action' && r.fields.event_name === name && r.fields.active === 'true')) {
            this.jobs.push({ at, run: () => this.run(fields.script, { current: this.record(table, id), event: { parm1: `${parm1}`, parm2: `${parm2}` } }) })
        }
    }
}

// meets evaluates an encoded query of the two forms that the application uses.
function meets(query, before, after) {
    return query.split('^').every((term) => {
        let m
        if (term === 'EQ' || term === '') return true
        if ((m = /^(\w+)VALCHANGES$/.exec(term))) return (before[m[1]] ?? '') !== (after[m[1]] ?? '')
        if ((m = /^(\w+)=(.*)$/.exec(term))) return `${after[m[1]] ?? ''}` === m[2]
        throw new Error(`the double cannot read the condition ${term}`)
    })
}
