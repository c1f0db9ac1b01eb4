// What is handed out: the update set, the scope that customers change, the language of the scripts, and the page about it.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'acorn'
import { XMLParser, XMLValidator } from 'fast-xml-parser'
import { records, root } from './built.mjs'

const read = (path) => readFileSync(join(root, path), 'utf8')
const { scope, scopeId } = JSON.parse(read('now.config.json'))

test('the update set is well-formed, and so is each record in it', () => {
    const text = read('dist/update-set.xml')
    assert.equal(XMLValidator.validate(text), true)
    const parser = new XMLParser({ ignoreAttributes: false, parseTagValue: false, trimValues: false, isArray: (name) => name === 'sys_update_xml' })
    const { unload } = parser.parse(text)
    assert.equal(unload.sys_remote_update_set.state, 'loaded')
    const built = [...readdirSync(join(root, 'dist/app/scope')), ...readdirSync(join(root, 'dist/app/update'))].filter((file) => !file.startsWith('sys_module_'))
    assert.deepEqual(unload.sys_update_xml.map((u) => `${u.name}.xml`).sort(), built.sort())
    assert.equal(unload.sys_update_xml[0].table, 'sys_app')
    for (const update of unload.sys_update_xml) {
        assert.equal(XMLValidator.validate(update.payload), true, update.name)
        const folder = update.table === 'sys_app' ? 'scope' : 'update'
        assert.equal(update.payload, read(`dist/app/${folder}/${update.name}.xml`), 'the payload is the record as it was built')
        assert.ok(update.name.startsWith(`${update.table}_`))
        assert.equal(update.remote_update_set['#text'], unload.sys_remote_update_set.sys_id)
        assert.equal(update.application['#text'], scopeId)
    }
})

test('no secret is handed out, and the one property for it stays out of update sets', () => {
    const secret = records().filter((r) => r.table === 'sys_properties' && r.fields.type === 'password2').map((r) => [r.fields.suffix, r.fields.value, r.fields.is_private])
    assert.deepEqual(secret, [['secret', '', 'true']])
    for (const { fields } of records().filter((r) => r.table === 'sys_properties')) assert.equal(fields.read_roles, `${scope}.admin`, fields.name)
})

test('the scripts are ES5', () => {
    for (const file of readdirSync(join(root, 'src/scripts'))) {
        parse(read(`src/scripts/${file}`), { ecmaVersion: 5, sourceType: 'script' })
    }
})

test('the scope is one setting: another one builds, and nothing of ours is left in it', () => {
    assert.ok(scope.length <= 18)
    const folder = mkdtempSync(join(tmpdir(), 'scope-'))
    try {
        for (const name of ['src', 'now.config.json', 'package.json', 'updateset.mjs']) cpSync(join(root, name), join(folder, name), { recursive: true })
        symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
        writeFileSync(join(folder, 'now.config.json'), read('now.config.json').replace(`"${scope}"`, '"x_acme_unassign"'))
        const sdk = (...args) => spawnSync(join(root, 'node_modules/.bin/now-sdk'), ['build', ...args], { cwd: folder, env: { ...process.env, NODE_ENV: 'test' }, encoding: 'utf8' })
        // The keys file is of our scope. It is to be made anew, and the guard says so.
        assert.notEqual(sdk('--frozenKeys').status, 0, 'a keys file that is not current is refused')
        const built = sdk()
        assert.equal(built.status, 0, built.stdout + built.stderr)
        assert.equal(sdk('--frozenKeys').status, 0)
        assert.equal(spawnSync(process.execPath, ['updateset.mjs'], { cwd: folder }).status, 0)
        const text = readFileSync(join(folder, 'dist/update-set.xml'), 'utf8')
        assert.ok(text.includes('<name>x_acme_unassign.secret</name>') && text.includes('<event_name>x_acme_unassign.unassign</event_name>'))
        assert.ok(!text.includes(scope), 'the old scope is left')
    } finally {
        rmSync(folder, { recursive: true })
    }
})

test('the lock file names no registry, and the versions are those that are pinned', () => {
    const lock = read('package-lock.json')
    assert.ok(!/"resolved"|registry/.test(lock))
    const { devDependencies } = JSON.parse(read('package.json'))
    for (const [name, version] of Object.entries(devDependencies)) {
        assert.match(version, /^[0-9.]+$/)
        assert.equal(JSON.parse(lock).packages[`node_modules/${name}`].version, version)
    }
})

test('docs/servicenow.md has every status of docs/errors.md, and says the same of it', () => {
    const page = read('../../docs/servicenow.md')
    const errors = read('../../docs/errors.md')
    const rows = new Map([...page.matchAll(/^\| (\d{3}) \| (.+?) \| (yes|no) \|/gm)].map((m) => [m[1], { codes: [...m[2].matchAll(/`(\w+)`/g)].map((c) => c[1]), again: m[3] }]))
    const want = new Map()
    for (const m of errors.matchAll(/^## (\w+)\n\n\*\*(\d{3}), (do not retry|retry)\.\*\*/gm)) {
        const row = want.get(m[2]) ?? { codes: [], again: m[3] === 'retry' ? 'yes' : 'no' }
        row.codes.push(m[1])
        want.set(m[2], row)
    }
    assert.ok(want.size >= 15)
    assert.deepEqual([...rows.keys()].filter((status) => status >= '400').sort(), [...want.keys()].sort())
    for (const [status, { codes, again }] of want) {
        assert.equal(rows.get(status).again, again, status)
        // Of 400 the page names what a field can cause, of everything else all.
        for (const code of rows.get(status).codes) assert.ok(codes.includes(code), `${status} ${code}`)
        assert.ok(rows.get(status).codes.length > 0, status)
        if (status !== '400') assert.deepEqual([...rows.get(status).codes].sort(), [...codes].sort(), status)
    }
})

test('docs/servicenow.md has every setting', () => {
    const page = read('../../docs/servicenow.md')
    for (const { fields } of records().filter((r) => r.table === 'sys_properties')) {
        assert.ok(page.includes(`| \`${fields.suffix}\` |`), fields.suffix)
    }
    const pictures = [...page.matchAll(/\]\((pictures\/[\w-]+\.svg)\)/g)].map((m) => m[1])
    assert.deepEqual(pictures, ['pictures/servicenow-call.svg', 'pictures/servicenow-settings.svg'])
    for (const picture of pictures) assert.equal(XMLValidator.validate(read(`../../docs/${picture}`)), true)
})
