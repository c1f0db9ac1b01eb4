// The built script include AutopilotUnassign, against the function and against servers that misbehave.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createHmac } from 'node:crypto'
import { Platform } from './platform.mjs'
import { Function } from './function.mjs'
import { Stub } from './stub.mjs'
import { Wire } from './wire.mjs'
import { one, records } from './built.mjs'

const fjord = { id: '6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a01', serial: '5CG1234ABC', account: 'room.fjord@contoso.com' }
const all = records()
let wire, f

before(async () => {
    wire = await Wire.open()
    f = await Function.start()
})
after(async () => {
    await f.stop()
    await wire.close()
})

// instance returns an instance with the settings for the function.
const instance = (properties = {}, options = {}) => new Platform({ wire, all, properties: { url: f.url, secret: f.secret, alias: '', ...properties }, ...options })

const ask = (platform, request, id) => {
    platform.request = request
    return { ...platform.run('return new AutopilotUnassign().ask(JSON.parse(request), id);', { request: JSON.stringify(request), id }) }
}

test('a signed request is done, and is on record under the reference', async () => {
    const answer = ask(instance(), { serialNumber: fjord.serial, expected: { userPrincipalName: fjord.account }, reference: 'Møterom – 東京 🚀' })
    assert.equal(answer.status, 200)
    assert.equal(answer.code, 'unassigned')
    assert.equal(answer.outcome, 'done')
    assert.equal(answer.retryable, false)
    assert.equal(answer.deviceId, fjord.id)
    assert.equal(answer.account, fjord.account)
    assert.match(answer.graphRequestId, /^[0-9a-f-]{36}$/)
    const record = await f.record(answer.requestId)
    assert.equal(record.caller_kind, 'signature')
    assert.equal(record.reference, 'Møterom – 東京 🚀')
})

test('what is sent is what the contract asks for, and no more', () => {
    const platform = instance()
    ask(platform, { deviceId: fjord.id, dryRun: true }, 'id-1')
    const { headers, body } = platform.sent[0]
    assert.equal(headers['Content-Type'], 'application/json')
    assert.equal(headers.Prefer, 'return=representation')
    assert.equal(headers['User-Agent'], 'ServiceNow/1.0')
    assert.equal(headers['webhook-id'], 'id-1')
    assert.match(headers['webhook-timestamp'], /^[0-9]{10}$/)
    assert.deepEqual(Object.keys(headers).filter((h) => /^(x-api-key|x-functions-key|authorization)$/i.test(h)), [])
    assert.equal(body, `{"deviceId":"${fjord.id}","dryRun":true}`)
})

test('the shared signatures are made, from a request where there is one', () => {
    const vectors = JSON.parse(readFileSync(new URL('../../../handler/caller/testdata/signatures.json', import.meta.url), 'utf8'))
    assert.ok(vectors.length >= 6)
    const platform = instance()
    for (const v of vectors) {
        const body = v.request ? platform.run('return new AutopilotUnassign().encode(JSON.parse(request));', { request: JSON.stringify(v.request) }) : v.body
        assert.equal(body, v.body, v.name)
        if (v.request) assert.match(body, /^[\x20-\x7e]*$/, v.name)
        const headers = platform.run('return new AutopilotUnassign().sign(secret, id, timestamp, body);', { secret: v.key, id: v.id, timestamp: v.timestamp, body })
        assert.deepEqual([headers['webhook-id'], headers['webhook-timestamp']], [v.id, `${v.timestamp}`], v.name)
        assert.ok(v.signature.split(' ').includes(headers['webhook-signature']), v.name)
    }
})

test('the double of generateMac computes what the platform documents', () => {
    const mac = instance().run("return new CertificateEncryption().generateMac('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'HmacSHA256', 'x');")
    assert.equal(mac, createHmac('sha256', Buffer.from('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64')).update('x').digest('base64'))
})

test('another key is refused, and a clock that is wrong is told', () => {
    const other = 'whsec_' + Buffer.alloc(32, 7).toString('base64')
    const refused = ask(instance({ secret: other }), { deviceId: fjord.id, dryRun: true })
    assert.deepEqual([refused.status, refused.code, refused.outcome, refused.retryable], [401, 'unauthenticated', 'not_done', false])
    const late = instance()
    late.offset = -400_000
    assert.equal(ask(late, { deviceId: fjord.id, dryRun: true }).code, 'request_expired')
})

test('an API key does as well', async () => {
    const platform = instance({ auth: 'api_key', secret: f.apiKey })
    const answer = ask(platform, { serialNumber: fjord.serial, dryRun: true })
    assert.ok(['would_unassign', 'already_unassigned'].includes(answer.code), answer.code)
    assert.equal(platform.sent[0].headers['x-api-key'], f.apiKey)
    assert.ok(!('webhook-signature' in platform.sent[0].headers))
})

test('the connection of the alias counts before the properties', () => {
    const { alias } = { alias: one(all, 'sys_alias', 'name', 'Autopilot_Unassign').sys_id }
    assert.equal(one(all, 'sys_properties', 'suffix', 'alias').value, alias)
    const connected = instance({ url: 'https://nowhere.invalid/api/unassign', secret: 'whsec_AAAA', alias }, { connections: { [alias]: { connection_url: f.url, credential: { api_key: f.secret } } } })
    assert.equal(ask(connected, { serialNumber: 'CHECK', dryRun: true }).code, 'device_not_found')
    const basic = instance({ url: '', secret: '', alias }, { connections: { [alias]: { connection_url: f.url, credential: { user_name: 'x', password: f.secret } } } })
    assert.equal(ask(basic, { serialNumber: 'CHECK', dryRun: true }).code, 'device_not_found')
})

test('an OAuth profile and a function key go into their own headers', async () => {
    const stub = await Stub.serve({ status: 204 })
    const profile = 'a'.repeat(32)
    const answer = ask(instance({ auth: 'oauth', url: stub.url, secret: '', oauth_profile: profile }, { tokens: { [profile]: 'eyJ.token' } }), { deviceId: fjord.id })
    assert.deepEqual([answer.status, answer.code, answer.outcome], [204, 'unassigned', 'done'])
    ask(instance({ auth: 'function_key', url: stub.url, secret: 'the-function-key' }), { deviceId: fjord.id })
    const [oauth, key] = stub.requests()
    assert.equal(oauth.headers.authorization, 'Bearer eyJ.token')
    assert.equal(key.headers['x-functions-key'], 'the-function-key')
    for (const request of [oauth, key]) {
        assert.ok(!('webhook-signature' in request.headers) && !('x-api-key' in request.headers))
        // The script's headers and the platform's captured ones are on the wire, and no others.
        assert.deepEqual(Object.keys(request.headers).filter((h) => !['authorization', 'x-functions-key'].includes(h)).sort(),
            ['accept', 'content-length', 'content-type', 'host', 'prefer', 'user-agent', 'x-snc-integration-source'])
    }
    await stub.close()
})

test('the function says no, and it is no', () => {
    const platform = instance()
    for (const [request, status, code] of [
        [{ serialNumber: '5CG5678DEF', expected: { userPrincipalName: 'somebody.else@contoso.com' } }, 409, 'state_changed'],
        [{ serialNumber: 'Default string' }, 409, 'serial_number_ambiguous'],
        [{ serialNumber: 'NOT-THERE' }, 404, 'device_not_found'],
        [{ deviceId: 'x' }, 400, 'device_id_invalid'],
        [{}, 400, 'selector_missing'],
    ]) {
        const answer = ask(platform, request)
        assert.deepEqual([answer.status, answer.code, answer.outcome, answer.retryable], [status, code, 'not_done', false])
        assert.match(answer.requestId, /^[0-9a-f-]{16,}$/)
        assert.ok(answer.message.length > 10)
    }
})

test('a response of something else is no success', async () => {
    const html = '<html>Sign in</html>'
    const failure = (code, outcome) => JSON.stringify({ error: { code, message: 'm' }, outcome })
    const cases = [
        [{ status: 401 }, 'no_function_answer', 'not_done', false, 0],
        [{ status: 404 }, 'no_function_answer', 'not_done', false, 0],
        [{ status: 200, body: html }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 200 }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 200, body: '{"status":"ok"}' }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 200, body: 'null' }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 202, headers: { Location: '/x' } }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 302, headers: { Location: '/x' } }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 500, body: html }, 'no_function_answer', 'unknown', true, 0],
        [{ status: 502 }, 'no_function_answer', 'unknown', true, 0],
        [{ status: 503, headers: { 'Retry-After': '17' } }, 'no_function_answer', 'unknown', true, 17],
        [{ status: 408 }, 'no_function_answer', 'not_done', true, 0],
        ...[400, 414, 431].map((status) => [{ status }, 'no_function_answer', 'not_done', false, 0]),
        [{ status: 429 }, 'no_function_answer', 'not_done', true, 0],
        // In front of the function, without its X-Request-Id.
        [{ status: 204, headers: { 'X-Request-Id': '' } }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 200, headers: { 'X-Request-Id': '' }, body: '{"code":"unassigned","message":"m"}' }, 'no_function_answer', 'unknown', false, 0],
        [{ status: 404, headers: { 'X-Request-Id': '' }, body: failure('device_not_found', 'not_done') }, 'no_function_answer', 'not_done', false, 0],
        [{ status: 429, headers: { 'Retry-After': '9' }, body: failure('graph_throttled', 'not_done') }, 'graph_throttled', 'not_done', true, 9],
        [{ status: 503, headers: { 'retry-after': '31' }, body: failure('device_locked', 'not_done') }, 'device_locked', 'not_done', true, 31],
        [{ status: 504, body: failure('graph_timeout', 'unknown') }, 'graph_timeout', 'unknown', true, 0],
        [{ status: 501, body: failure('odd') }, 'odd', 'unknown', false, 0],
        [{ status: 424, headers: { 'Retry-After': '5' }, body: failure('secret_invalid', 'not_done') }, 'secret_invalid', 'not_done', false, 0],
    ]
    const stub = await Stub.serve(...cases.map(([answer]) => answer))
    const platform = instance({ url: stub.url })
    for (const [given, ...want] of cases) {
        const answer = ask(platform, { deviceId: fjord.id })
        assert.deepEqual([answer.code, answer.outcome, answer.retryable, answer.retryAfter], want, JSON.stringify(given))
        assert.equal(answer.status, given.status)
    }
    await stub.close()
})

test('a date in Retry-After is read by the clock of the instance', async () => {
    const stub = await Stub.serve({ status: 503, headers: { 'Retry-After': new Date(Date.now() + 40_000).toUTCString() } }, { status: 503, headers: { 'Retry-After': 'soon' } },
        { status: 503, headers: { 'Retry-After': new Date(Date.now() - 40_000).toUTCString() } })
    const platform = instance({ url: stub.url })
    const { retryAfter } = ask(platform, { deviceId: fjord.id })
    assert.ok(retryAfter >= 36 && retryAfter <= 40, `${retryAfter}`)
    assert.equal(ask(platform, { deviceId: fjord.id }).retryAfter, 0)
    assert.equal(ask(platform, { deviceId: fjord.id }).retryAfter, 0)
    await stub.close()
})

test('no answer at all leaves open what happened, and names neither address nor secret', async () => {
    const stub = await Stub.serve({ cut: true })
    const platform = instance({ url: stub.url })
    const want = [0, 'no_answer', 'unknown', false]
    let answer = ask(platform, { deviceId: fjord.id })
    assert.deepEqual([answer.status, answer.code, answer.outcome, answer.retryable], want)
    await stub.close()
    answer = ask(platform, { deviceId: fjord.id })
    assert.deepEqual([answer.status, answer.code, answer.outcome, answer.retryable], want)
    assert.ok(!JSON.stringify(answer).includes('127.0.0.1'))
    assert.deepEqual(platform.log, [])
})

test('a setting that is missing or wrong is named, and nothing is sent', () => {
    for (const [properties, words] of [
        [{ url: '' }, /URL/], [{ url: 'http://contoso.example/api/unassign' }, /https/], [{ url: 'http://127.0.0.1/api/unassign' }, /https/], [{ url: 'https://contoso.example/api/unassign?code=x' }, /without a query/],
        [{ secret: '' }, /secret/], [{ secret: 'whsec_not base64!' }, /base64/], [{ secret: 'whsec_abc' }, /base64/], [{ auth: 'basic' }, /auth/], [{ auth: 'oauth' }, /oauth_profile/],
    ]) {
        const platform = instance(properties)
        const answer = ask(platform, { deviceId: fjord.id })
        assert.deepEqual([answer.status, answer.code, answer.outcome, answer.retryable], [0, 'not_configured', 'not_done', false], JSON.stringify(properties))
        assert.match(answer.message, words)
        assert.ok(!properties.secret || !answer.message.includes(properties.secret))
        assert.equal(platform.sent.length, 0)
    }
})

test('a user is not kept waiting', () => {
    const platform = instance()
    platform.interactive = true
    assert.equal(ask(platform, { deviceId: fjord.id, dryRun: true }).code, 'interactive_session')
    assert.equal(platform.sent.length, 0)
    platform.set('allow_interactive', 'true')
    assert.equal(ask(platform, { deviceId: fjord.id, dryRun: true }).status, 200)
})

test('a reference with any characters is sent, and stops nothing', async () => {
    const platform = instance()
    for (const [reference, want] of [
        ['P${secret}100$', 'P${secret}100$'], ['\u3000P\u00a01\u200b000\ufeff', 'P 1000'], ['a\r\n\tb\u2028c', 'a b c'], ['\u202eabc\u2066', 'abc'], ['\ud83d', undefined],
        ['\u200b', undefined], ['x'.repeat(127) + '🚀', 'x'.repeat(127)], ['møterom 東京 🚀', 'møterom 東京 🚀'],
    ]) {
        const answer = ask(platform, { serialNumber: fjord.serial, dryRun: true, reference })
        assert.equal(answer.status, 200, JSON.stringify([reference, answer]))
        assert.equal((await f.record(answer.requestId)).reference, want, JSON.stringify(reference))
    }
})

test('a body with ${...} reaches the function as it was signed, with and without the switch', () => {
    for (const has of [true, false]) {
        const platform = instance()
        if (!has) delete platform.context.sn_ws.RESTMessageV2.prototype.disableForcedVariableSubstitution
        assert.equal(ask(platform, { serialNumber: 'NOT${THERE}', dryRun: true }).code, 'device_not_found')
    }
})

test('double and late delivery do no harm', () => {
    const platform = instance()
    const request = { serialNumber: 'R90A2B3C', expected: { userPrincipalName: 'room.elv@contoso.com' } }
    const first = ask(platform, request, 'asset-1')
    const second = ask(platform, request, 'asset-1')
    assert.deepEqual([first.status, first.code], [200, 'unassigned'])
    assert.equal(second.status, 200)
    assert.ok(['unassigned', 'already_unassigned'].includes(second.code), second.code)
})
