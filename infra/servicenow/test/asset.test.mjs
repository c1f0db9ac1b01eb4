// The built rule, events, button and work note, on a double of the platform.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { Platform } from './platform.mjs'
import { Function } from './function.mjs'
import { Stub } from './stub.mjs'
import { Wire } from './wire.mjs'
import { one, records } from './built.mjs'

const all = records()
const rule = 'Autopilot Unassign on retirement'
let wire, f

before(async () => {
    wire = await Wire.open()
    f = await Function.start()
})
after(async () => {
    await f.stop()
    await wire.close()
})

// instance returns an instance on which an administrator has activated the rule and switched the dry run off.
const instance = (properties = {}, options = {}) => {
    const platform = new Platform({ wire, all, properties: { url: f.url, secret: f.secret, alias: '', dry_run: 'false', ...properties }, ...options })
    platform.activate(rule)
    return platform
}

const hardware = (platform, fields) => platform.insert('alm_hardware', { asset_tag: 'P1000123', install_status: '1', ...fields })

const retire = (platform, id) => {
    platform.change('alm_hardware', id, { install_status: '7' })
    assert.equal(platform.sent.length, 0, 'nothing is sent while the user waits')
    platform.work()
}

// plainNote holds a note to the form of all notes.
const plainNote = (note) => {
    assert.ok(note.length < 400, `${note.length} characters`)
    assert.match(note, /^Autopilot Unassign: [^\n\r<>[\]&]*$/)
}

test('everything that would act by itself is shipped inactive, and as a dry run', () => {
    assert.equal(one(all, 'sys_script', 'name', rule).active, 'false')
    const { filter_condition, script } = one(all, 'sys_script', 'name', rule)
    assert.equal(filter_condition, 'install_status=7^install_statusVALCHANGES^EQ')
    assert.match(script, /start\(current, '7'\)/, 'the state of the script is that of the condition')
    assert.equal(one(all, 'sys_ui_action', 'name', 'Unassign resource account').active, 'false')
    // now-sdk install activates each flow of a package, so the package has none.
    assert.deepEqual(all.filter(({ table }) => /^sys_hub_flow/.test(table)), [])
    // Neither do an upgrade's records switch anything on or reset a setting.
    for (const { table, folder } of all) if (['sys_properties', 'sys_script', 'sys_ui_action'].includes(table)) assert.equal(folder, 'unload', table)
    assert.equal(one(all, 'sysevent_register', 'suffix', 'unassign').caller_access, '2', 'no other application may queue the event')
    const button = one(all, 'sys_ui_action', 'name', 'Unassign resource account')
    assert.deepEqual([button.format_for_configurable_workspace, button.form_button_v2, button.condition], ['true', 'true', "current.serial_number != ''"])
    assert.equal(one(all, 'sys_properties', 'suffix', 'dry_run').value, 'true')
    const platform = new Platform({ wire, all, properties: { url: f.url, secret: f.secret, alias: '' } })
    platform.change('alm_hardware', hardware(platform, { serial_number: '5CG1234ABC' }), { install_status: '7' })
    assert.equal(platform.jobs.length, 0)
})

test('a retirement is a dry run until somebody says otherwise', async () => {
    const platform = instance({ dry_run: 'yes please' })
    const id = hardware(platform, { serial_number: '5CG1234ABC' })
    retire(platform, id)
    const [note] = platform.notes('alm_hardware', id)
    assert.match(note, /^Autopilot Unassign: dry run \(200 would_unassign\)\. /)
    assert.ok(platform.sent[0].body.includes('"dryRun":true'))
})

test('a retirement takes the account off and writes one line about it', async () => {
    const platform = instance()
    const id = hardware(platform, { serial_number: '5CG1234ABC' })
    retire(platform, id)
    const notes = platform.notes('alm_hardware', id)
    assert.equal(notes.length, 1)
    plainNote(notes[0])
    const m = /^Autopilot Unassign: done \(200 unassigned\)\. .+? Account room\.fjord@contoso\.com\. Device 5CG1234ABC\. Request ([0-9a-f-]{36}), Graph ([0-9a-f-]{36})\. By anna\.asset, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.$/.exec(notes[0])
    assert.ok(m, notes[0])
    const record = await f.record(m[1])
    assert.deepEqual([record.status, record.reference, record.context.sys_id, record.context.table, record.graph_request_id], [200, 'P1000123', id, 'alm_hardware', m[2]])
    // The note is an update of the asset, and sets nothing off.
    assert.equal(platform.jobs.length, 0)
    assert.equal(platform.sent.length, 1)
    // So is any other change.
    platform.change('alm_hardware', id, { substatus: 'disposed' })
    assert.equal(platform.jobs.length, 0)
})

test('an account that is not the expected one stays, and an asset without one is left alone', () => {
    const platform = instance({ expected_field: 'u_room_account' })
    const id = hardware(platform, { serial_number: '5CG5678DEF', u_room_account: 'room.other@contoso.com' })
    retire(platform, id)
    assert.match(platform.notes('alm_hardware', id)[0], /^Autopilot Unassign: not done \(409 state_changed\)\. /)
    const without = hardware(platform, { serial_number: '5CG5678DEF' })
    platform.change('alm_hardware', without, { install_status: '7' })
    platform.work()
    assert.deepEqual(platform.notes('alm_hardware', without), [])
    assert.equal(platform.sent.length, 1)
    const named = hardware(platform, { serial_number: '5CG5678DEF', u_room_account: 'room.skog' })
    platform.change('alm_hardware', named, { install_status: '7' })
    platform.work()
    assert.ok(platform.sent[1].body.includes('"expected":{"resourceName":"room.skog"}'))
    assert.match(platform.notes('alm_hardware', named)[0], /: done \(200 unassigned\)/)
})

test('a serial number of several devices ends with a person', () => {
    const platform = instance()
    const id = hardware(platform, { serial_number: 'Default string' })
    retire(platform, id)
    const [note] = platform.notes('alm_hardware', id)
    plainNote(note)
    assert.match(note, /: not done \(409 serial_number_ambiguous\)\. /)
    assert.equal(platform.jobs.length, 0)
})

test('the id of the device counts before the serial number', () => {
    const platform = instance({ device_id_field: 'u_autopilot_id' })
    const id = hardware(platform, { serial_number: 'Default string', u_autopilot_id: '6f1a9c0e-5b1d-4c55-9d3a-1f0e7c2b4a04' })
    retire(platform, id)
    assert.match(platform.notes('alm_hardware', id)[0], /: done \(200 unassigned\)/)
})

test('an asset that says nothing of its device is not asked about', () => {
    const platform = instance()
    const id = hardware(platform, { serial_number: '' })
    retire(platform, id)
    assert.match(platform.notes('alm_hardware', id)[0], /^Autopilot Unassign: not sent\. The asset has no serial number\./)
    assert.equal(platform.sent.length, 0)
})

test('the note goes to the task that the asset names', () => {
    const platform = instance({ note_task_field: 'request_line' })
    const task = platform.insert('sc_req_item', { number: 'RITM0010001' })
    const id = hardware(platform, { serial_number: 'R90A2B3C', request_line: task })
    retire(platform, id)
    assert.deepEqual(platform.notes('alm_hardware', id), [])
    assert.match(platform.notes('sc_req_item', task)[0], /: done \(200 unassigned\)/)
    const without = hardware(platform, { serial_number: 'R90A2B3C' })
    platform.change('alm_hardware', without, { install_status: '7' })
    platform.work()
    assert.equal(platform.notes('alm_hardware', without).length, 1)
})

const limited = { status: 429, headers: { 'Retry-After': '40' }, body: '{"error":{"code":"graph_throttled","message":"Wait."},"outcome":"not_done","requestId":"r-1"}' }
const away = { status: 503, headers: { 'Retry-After': '2' }, body: '{"error":{"code":"device_locked","message":"Wait."},"outcome":"not_done"}' }

test('429 and 503 are asked again at the time they name, signed anew, under the same id', async () => {
    const stub = await Stub.serve(limited, away, { status: 500 }, { status: 204 })
    const platform = instance({ url: stub.url })
    const id = hardware(platform, { serial_number: 'X1' })
    retire(platform, id)
    assert.deepEqual(platform.notes('alm_hardware', id), [])
    const waits = [platform.wait(), platform.wait(), platform.wait()].map(Math.round)
    // 40 as asked for; 2 is less than the least; 500 names no time, and is the third attempt.
    assert.deepEqual(waits, [40, 5, 120])
    const requests = stub.requests()
    assert.equal(requests.length, 4)
    assert.equal(new Set(requests.map((r) => r.headers['webhook-id'])).size, 1)
    assert.match(requests[0].headers['webhook-id'], /^[0-9a-f]{32}-1$/)
    assert.equal(new Set(requests.map((r) => r.headers['webhook-timestamp'])).size, 4)
    assert.equal(new Set(requests.map((r) => r.headers['webhook-signature'])).size, 4)
    assert.equal(new Set(requests.map((r) => r.body)).size, 1)
    const notes = platform.notes('alm_hardware', id)
    assert.equal(notes.length, 1)
    assert.match(notes[0], /: done \(204 unassigned\)\. .+ By anna\.asset,/)
    assert.equal(platform.jobs.length, 0)
    await stub.close()
})

test('the attempts have an end, and so has waiting', async () => {
    const stub = await Stub.serve({ status: 503, headers: { 'Retry-After': '60' } })
    const platform = instance({ url: stub.url, attempts: '3' })
    const id = hardware(platform, { serial_number: 'X1' })
    retire(platform, id)
    platform.wait()
    platform.wait()
    assert.equal(platform.jobs.length, 0)
    assert.equal(stub.requests().length, 3)
    assert.match(platform.notes('alm_hardware', id)[0], /: unknown \(503 no_function_answer\)\. Status 503 came from something in front/)
    await stub.close()
    const patient = await Stub.serve({ status: 429, headers: { 'Retry-After': '86400' } })
    const other = instance({ url: patient.url })
    const second = hardware(other, { serial_number: 'X1' })
    retire(other, second)
    assert.equal(other.jobs.length, 0)
    assert.match(other.notes('alm_hardware', second)[0], /: not done \(429 no_function_answer\)/)
    await patient.close()
})

test('no 4xx but 408 and 429 is repeated, nor is what got no answer', async () => {
    for (const status of [400, 401, 403, 404, 405, 409, 413, 415, 422, 424, 501, 505]) {
        const stub = await Stub.serve({ status, headers: { 'Retry-After': '1' }, body: '{"error":{"code":"x","message":"y"},"outcome":"not_done"}' })
        const platform = instance({ url: stub.url })
        const id = hardware(platform, { serial_number: 'X1' })
        retire(platform, id)
        assert.equal(platform.jobs.length, 0, `${status}`)
        assert.match(platform.notes('alm_hardware', id)[0], new RegExp(`: not done \\(${status} x\\)`))
        await stub.close()
    }
    const platform = instance({ url: 'https://127.0.0.1:1/' })
    const id = hardware(platform, { serial_number: 'X1' })
    retire(platform, id)
    assert.equal(platform.jobs.length, 0)
    assert.match(platform.notes('alm_hardware', id)[0], /: unknown \(no status no_answer\)\. No response, so the outcome is unknown/)
})

test('the function itself throttles, and the second attempt succeeds', async () => {
    const slow = await Function.start({ RATE_LIMIT: '40' })
    const platform = instance({ url: slow.url, secret: slow.secret })
    const check = one(all, 'sysauto_script', 'run_type', 'on_demand').script
    for (let i = 0; i < 45 && !platform.log.some((line) => line.includes('429 rate_limited')); i++) platform.run(check)
    assert.ok(platform.log.some((line) => line.includes('429 rate_limited')), 'the limit was reached')
    const id = hardware(platform, { serial_number: '5CG1234ABC' })
    platform.change('alm_hardware', id, { install_status: '7' })
    platform.work()
    assert.equal(platform.jobs.length, 1)
    await new Promise((resolve) => setTimeout(resolve, 3100)) // the clock of the function goes on as well
    assert.ok(platform.wait() <= 6)
    assert.match(platform.notes('alm_hardware', id)[0], /: done \(200 unassigned\)/)
    await slow.stop()
})

test('a device outside the policy is refused once', async () => {
    const strict = await Function.start({ ALLOWED_GROUP_TAGS: 'Retired' })
    const platform = instance({ url: strict.url, secret: strict.secret })
    const id = hardware(platform, { serial_number: '5CG1234ABC' })
    retire(platform, id)
    assert.match(platform.notes('alm_hardware', id)[0], /: not done \(403 policy_denied\)/)
    assert.equal(platform.jobs.length, 0)
    await strict.stop()
})

test('a repetition whose asset is no longer retired is not sent', async () => {
    const stub = await Stub.serve(limited)
    const platform = instance({ url: stub.url })
    const id = hardware(platform, { serial_number: 'X1' })
    retire(platform, id)
    platform.change('alm_hardware', id, { install_status: '1' })
    platform.wait()
    assert.equal(stub.requests().length, 1)
    assert.match(platform.notes('alm_hardware', id)[0], /^Autopilot Unassign: not sent\. The state of the asset has changed since\./)
    // The same for a rule that runs late.
    const late = hardware(platform, { serial_number: 'X1' })
    platform.change('alm_hardware', late, { install_status: '7' })
    platform.change('alm_hardware', late, { install_status: '1' })
    platform.work()
    assert.equal(stub.requests().length, 0)
    await stub.close()
})

test('an event of somebody else, and an asset that is gone, do nothing', () => {
    const platform = instance()
    const id = hardware(platform, { serial_number: '5CG1234ABC' })
    for (const parm of ['', 'x 7 id', '1 7', '1 7 <id>', '0 7 id', '1 7 a b']) {
        platform.queue(platform.now(), `${platform.scope}.unassign`, platform.record('alm_hardware', id), parm, 'x')
    }
    platform.work()
    platform.change('alm_hardware', id, { install_status: '7' })
    platform.tables.alm_hardware.delete(id)
    platform.work()
    assert.equal(platform.sent.length, 0)
    assert.equal(platform.log.filter((line) => line.includes('malformed parameters')).length, 6)
    assert.ok(platform.log.some((line) => line.includes('is gone')))
})

test('an asset that is inserted as retired counts, and one with invisible characters too', async () => {
    const platform = instance()
    const id = hardware(platform, { serial_number: '\u200b5CG1234ABC\u00a0', asset_tag: '\u3000P1\u200b\u00a0${x}', install_status: '7' })
    platform.work()
    const [note] = platform.notes('alm_hardware', id)
    plainNote(note)
    assert.match(note, /^Autopilot Unassign: done \(200 /)
    assert.equal(JSON.parse(platform.sent[0].body).reference, 'P1 ${x}')
})

test('the account of the response is in the note and an output', async () => {
    const stub = await Stub.serve({ status: 200, body: JSON.stringify({ code: 'unassigned', message: 'Done.', requestId: 'r-1', account: { resourceName: 'room.fjord' } }) })
    const platform = instance({ url: stub.url })
    const id = hardware(platform, { serial_number: 'X1' })
    retire(platform, id)
    assert.match(platform.notes('alm_hardware', id)[0], /Done\. Account room\.fjord\. Device X1\. Request r-1\./)
    const outputs = {}
    platform.run(actionScript(), { inputs: { serial_number: 'X1', dry_run: false }, outputs })
    assert.equal(outputs.account, 'room.fjord')
    await stub.close()
})

test('the button sends nothing itself', () => {
    const platform = instance()
    platform.interactive = true
    const id = hardware(platform, { serial_number: 'R90D4E5F', install_status: '1' })
    const redirected = []
    platform.run(one(all, 'sys_ui_action', 'name', 'Unassign resource account').script, { current: platform.record('alm_hardware', id), action: { setRedirectURL: (r) => redirected.push(r) } })
    assert.equal(platform.sent.length, 0)
    assert.equal(platform.messages.length, 1)
    assert.equal(redirected.length, 1)
    platform.interactive = false
    platform.work()
    assert.match(platform.notes('alm_hardware', id)[0], /: done \(200 unassigned\)\. .+ By anna\.asset,/)
})

test('whatever an answer has in it, the note is one plain line', async () => {
    const message = '<b>bold</b> [code]<script>alert(1)</script>[/code]\r\nsecond & third ' + 'x'.repeat(600)
    const stub = await Stub.serve({ status: 409, body: JSON.stringify({ error: { code: '<i>' + 'c'.repeat(100), message }, requestId: 'r'.repeat(500), graph: { requestId: 'g'.repeat(500) }, outcome: 'not_done' }) })
    const platform = instance({ url: stub.url }, { user: 'u'.repeat(300) })
    const id = hardware(platform, { serial_number: 's'.repeat(128) })
    retire(platform, id)
    plainNote(platform.notes('alm_hardware', id)[0])
    await stub.close()
})

test('no secret is in a log, a note or an event', async () => {
    const stub = await Stub.serve(limited, { status: 401 })
    for (const [auth, secret] of [['signature', f.secret], ['api_key', f.apiKey], ['function_key', 'function-key-0123456789']]) {
        for (const url of [f.url, stub.url, 'https://127.0.0.1:1/', '']) {
            const platform = instance({ auth, secret, url })
            const id = hardware(platform, { serial_number: '5CG1234ABC' })
            retire(platform, id)
            const kept = JSON.stringify([platform.log, [...platform.tables.alm_hardware.values()], platform.messages])
            assert.ok(kept.length > 100)
            for (const s of [secret, secret.replace('whsec_', ''), '127.0.0.1']) assert.ok(!kept.includes(s), kept)
        }
    }
    await stub.close()
})

test('what the platform throws is not repeated: the key may be in it', () => {
    const key = 'c2VydmljZW5vdy1rZXktd2l0aC0zMi1ieXRlcy0hISE='
    const refuse = (name, value) => { throw new Error(`Invalid key: ${name} ${value}`) }
    const cannot = {
        sign: (platform) => { platform.context.CertificateEncryption.prototype.generateMac = (k) => refuse('generateMac', k) },
        'set a header': (platform) => { platform.context.sn_ws.RESTMessageV2.prototype.setRequestHeader = refuse },
        'read the connection': (platform) => { platform.context.sn_cc.ConnectionInfoProvider.prototype.getConnectionInfo = () => refuse('password', key) },
        'throw a text': (platform) => { platform.context.CertificateEncryption.prototype.generateMac = (k) => { throw `Invalid key: ${k}` } },
    }
    for (const [what, breaks] of Object.entries(cannot)) {
        const platform = instance({ auth: what === 'set a header' ? 'api_key' : 'signature', secret: `whsec_${key}`, alias: what === 'read the connection' ? 'alias-1' : '' })
        breaks(platform)
        const queued = []
        const queue = platform.queue
        platform.queue = (...args) => { queued.push(args); queue.apply(platform, args) }
        const id = hardware(platform, { serial_number: '5CG1234ABC' })
        retire(platform, id)
        platform.run(one(all, 'sysauto_script', 'name', 'Autopilot Unassign: check the connection').script)
        const [note] = platform.notes('alm_hardware', id)
        plainNote(note)
        assert.match(note, /: not done \(no status not_configured\)\. Nothing was sent: the platform refused to (sign the request|prepare the request|read the credential of the connection)\. Look at Module Access Policies/, what)
        const told = JSON.stringify([platform.notes('alm_hardware', id), platform.log, platform.messages, queued.map(([at, name, , ...parms]) => [at, name, ...parms])])
        assert.ok(platform.log.length >= 2, what)
        for (let i = 0; i + 6 <= key.length; i++) assert.ok(!told.includes(key.slice(i, i + 6)), `${what}: ${told}`)
        assert.ok(!told.includes('Invalid key'), told)
        assert.equal(platform.sent.length, 0)
    }
})

test('the check tells a connection that works from one that does not', () => {
    const { script } = one(all, 'sysauto_script', 'run_type', 'on_demand')
    const works = instance()
    works.run(script)
    assert.match(works.log[0], /^info The connection works\. .*\(404 device_not_found\)/)
    const fails = instance({ secret: 'whsec_' + Buffer.alloc(32, 1).toString('base64') })
    fails.run(script)
    assert.match(fails.log[0], /^error The connection does not work\. .*\(401 unauthenticated\)/)
})

test('the flow action gives what happened as outputs', () => {
    const platform = instance()
    const { script } = JSON.parse(JSON.stringify({ script: actionScript() }))
    const run = (inputs) => {
        const outputs = {}
        platform.run(script, { inputs, outputs })
        return outputs
    }
    const dry = run({ serial_number: '5CG5678DEF', device_id: '', expected_account: '', dry_run: 'true', reference: 'RITM1' })
    assert.equal(dry.status, 200)
    assert.equal(dry.outcome, dry.code === 'would_unassign' ? 'not_done' : 'done')
    assert.match(dry.request_id, /^[0-9a-f-]{36}$/)
    plainNote(dry.note)
    for (const [value, sent] of [[true, true], ['1', true], ['', true], [null, true], [false, false], ['false', false], ['0', false]]) {
        run({ device_id: 'x', dry_run: value })
        assert.equal(JSON.parse(platform.sent.at(-1).body).dryRun, sent, `${value}`)
    }
    const other = run({ serial_number: 'R90D4E5F', expected_account: 'room.other', dry_run: false })
    assert.ok(other.status === 409 || other.code === 'already_unassigned', JSON.stringify(other))
    assert.equal(other.retryable, false)
    assert.deepEqual(Object.keys(dry).sort(), ['account', 'code', 'message', 'note', 'outcome', 'request_id', 'retry_after', 'retryable', 'status'])
})

// actionScript is the script of the action's step, as it was built.
function actionScript() {
    const values = all.filter((r) => r.file.startsWith('sys_hub_action_type_definition')).flatMap((r) => Object.values(r.fields))
    const found = values.find((value) => value.includes('(function execute(inputs, outputs)'))
    assert.ok(found, 'the action has no script')
    return found.includes('"script"') ? JSON.parse(found).script : found
}

test('the tests that an administrator runs on the instance pass here', () => {
    const scripts = all.filter((r) => r.file.startsWith('sys_atf_step') && r.table === 'sys_variable_value').map((r) => r.fields.value).filter((value) => value.includes('assertEqual'))
    assert.equal(scripts.length, 2)
    let n = 0
    const assertEqual = ({ name, shouldbe, value }) => { n++; assert.equal(value, shouldbe, name) }
    for (const script of scripts) instance().run(script, { outputs: {}, steps: null, params: null, stepResult: {}, assertEqual })
    assert.equal(n, 5)
})
