// The script include and the REST step of docs/servicenow.md, for instances without the application, against the function.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { parse } from 'acorn'
import { Platform } from './platform.mjs'
import { Function } from './function.mjs'
import { Stub } from './stub.mjs'
import { Wire } from './wire.mjs'

const page = readFileSync(new URL('../../../docs/servicenow.md', import.meta.url), 'utf8')
const [script, rule] = [...page.matchAll(/```js\n([^]*?)```/g)].map((m) => m[1])
let wire, f

before(async () => {
    wire = await Wire.open()
    f = await Function.start()
})
after(async () => {
    await f.stop()
    await wire.close()
})

// rows returns the table that follows a heading, as pairs of field and value.
const rows = (heading) => [...page.slice(page.indexOf(heading)).split('\n\n').find((part) => part.startsWith('| field')).matchAll(/^\| (.+?) \| (.+?) \|$/gm)].slice(1).map((m) => [m[1], m[2]])
const headers = (text) => Object.fromEntries([...text.matchAll(/`([\w-]+): ([^`<]+)`/g)].map((m) => [m[1], m[2]]))

// instance returns an instance with the REST message of the page.
const instance = (options) => {
    const table = new Map(rows('### A REST message and a script include'))
    const [message, method] = [/`(.+)`/.exec(table.get('Name'))[1], /Name `(\w+)`/.exec(table.get('HTTP Methods > New'))[1]]
    const { profile, key, url = f.url, ...rest } = options
    const platform = new Platform({ wire, restMessages: { [`${message}/${method}`]: { endpoint: url, headers: headers(table.get('HTTP Request > HTTP Headers')), profile } }, ...rest })
    if (key) platform.properties['autopilot_unassign.key'] = key
    platform.evaluate(script)
    return platform
}

test('the script is ES5, and short', () => {
    parse(script, { ecmaVersion: 5, sourceType: 'script' })
    assert.equal(script.trim().split('\n').length, 15)
})

test('with an API key it checks, acts, and reports', () => {
    const platform = instance({ key: f.apiKey })
    const run = (...args) => platform.run('return new UnassignResourceAccount().run(a[0], a[1], a[2], a[3]);', { a: args })
    assert.match(run('5CG1234ABC', 'room.fjord@contoso.com', 'P${1}'), /^200 would_unassign: .+ Request [0-9a-f-]{36}$/)
    assert.match(run('5CG1234ABC', 'room.other@contoso.com', 'P1', true), /^409 state_changed: /)
    assert.match(run('5CG1234ABC', 'room.fjord@contoso.com', 'a "quoted" \\ name', true), /^200 unassigned: /)
    assert.match(run('5CG1234ABC', 'room.fjord@contoso.com', 'P1', true), /^200 already_unassigned: /)
    assert.equal(platform.sent[0].headers['x-api-key'], f.apiKey)
    platform.properties['autopilot_unassign.key'] = 'another-key-0123456789abcdefghij'
    assert.match(run('5CG1234ABC', 'room.fjord@contoso.com', 'P1'), /^401 unauthenticated: /)
})

test('with OAuth it sends the token of the profile, and nothing counts that is not the function', async () => {
    const stub = await Stub.serve({ status: 200, body: '{"code":"unassigned","message":"Done.","requestId":"r-1"}' }, { status: 200, headers: { 'X-Request-Id': '' }, body: '<html>' },
        { status: 204, headers: { 'X-Request-Id': '' } }, { cut: true })
    const profile = 'a'.repeat(32)
    const platform = instance({ profile, tokens: { [profile]: 'eyJ.token' }, url: stub.url })
    const run = () => platform.run("return new UnassignResourceAccount().run('X1', 'room@contoso.com', 'P1', true);")
    assert.equal(run(), '200 unassigned: Done. Request r-1')
    assert.match(run(), /^Status 200 is not from the function/)
    assert.match(run(), /^Status 204 is not from the function/)
    assert.match(run(), /^No response/)
    const [request] = stub.requests()
    assert.equal(request.headers.authorization, 'Bearer eyJ.token')
    assert.ok(!('x-api-key' in request.headers))
    await stub.close()
})

test('the rule of the page writes the note', () => {
    const platform = instance({ key: f.apiKey })
    const id = platform.insert('alm_hardware', { serial_number: '5CG5678DEF', u_room_account: 'room.skog@contoso.com', asset_tag: 'P1', install_status: '1' })
    platform.run(rule, { current: platform.record('alm_hardware', id) })
    assert.match(platform.notes('alm_hardware', id)[0], /^200 would_unassign: /)
})

test('the REST step of the page is what the function takes', async () => {
    const table = rows('### A REST step of Integration Hub')
    const value = (field) => /`(.+)`/.exec(table.find(([name]) => name === field)[1])[1]
    const sent = headers(table.filter(([name]) => name === 'Header').map(([, v]) => v).join(' '))
    assert.deepEqual([value('HTTP Method'), value('Resource Path'), sent['Content-Type'], sent.Prefer], ['POST', new URL(f.url).pathname, 'application/json', 'return=representation'])
    const body = value('Request Body').replace('<serial>', 'R90A2B3C').replace('<account>', 'room.elv@contoso.com').replace('<ticket>', 'RITM1')
    const response = wire.send({ url: f.url, method: 'POST', headers: { ...sent, Host: new URL(f.url).host, 'Content-Length': `${body.length}`, 'x-api-key': f.apiKey }, body: Buffer.from(body), timeout: 20_000 })
    assert.equal(response.status, 200, response.body)
    assert.equal(JSON.parse(response.body).code, 'would_unassign')
    assert.ok(response.headers['X-Request-Id'])
})
