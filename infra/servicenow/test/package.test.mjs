// The update sets, the scope that customers change, the language of the scripts, and the page.
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

const listed = (folder) => readdirSync(join(root, 'dist/app', folder)).filter((file) => !file.startsWith('sys_module_')).map((file) => [file.replace('.xml', ''), folder])

const parseSet = (text) => {
    assert.equal(XMLValidator.validate(text), true)
    const parser = new XMLParser({ ignoreAttributes: false, parseTagValue: false, trimValues: false, isArray: (name) => name === 'sys_update_xml' })
    return parser.parse(text).unload
}

for (const [file, folders] of [['update-set.xml', ['scope', 'update', 'unload']], ['update-set-upgrade.xml', ['scope', 'update']]]) test(`${file} is well-formed, and so is each record in it`, () => {
    const unload = parseSet(read(`dist/${file}`))
    assert.equal(unload.sys_remote_update_set.state, 'loaded')
    const built = new Map(folders.flatMap(listed))
    // An upgrade has no setting, no rule and no button. Inserting a contained role twice is an error.
    const want = [...built.keys()].filter((name) => folders.length > 2 || !/^(sys_properties|sys_script|sys_ui_action|sys_user_role_contains)_[0-9a-f]{32}$/.test(name))
    assert.deepEqual(unload.sys_update_xml.map((u) => u.name).sort(), want.sort())
    assert.match(unload.sys_update_xml[0].name, /^sys_app_/)
    for (const update of unload.sys_update_xml) {
        assert.equal(XMLValidator.validate(update.payload), true, update.name)
        // The payload is the built record, with the attributes that the platform writes and without the module that stays out.
        const table = /^(\w+)_[0-9a-f]{32}$/.exec(update.name)[1]
        const record = read(`dist/app/${built.get(update.name)}/${update.name}.xml`)
        assert.equal(update.payload, record.replace('<record_update>', `<record_update sys_domain="global" table="${table}">`).replace(/<package_json>.*<\/package_json>/, '<package_json/>'))
        assert.match(update.payload, new RegExp(`<record_update [^>]*table="${table}"`))
        // The preview shows the platform's word for the table and the record's own name.
        assert.match(update.type, /^[A-Z][A-Za-z &amp;]+$/)
        assert.ok(update.target_name !== '' && !update.target_name.includes(update.name), update.name)
        assert.equal(update.action, 'INSERT_OR_UPDATE')
        assert.match(update.sys_updated_on, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/)
        assert.equal(update.remote_update_set['#text'], unload.sys_remote_update_set.sys_id)
        assert.equal(update.application['#text'], scopeId)
    }
})

test('no secret is shipped, and the one property for it stays out of update sets', () => {
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
        for (const name of ['src', 'now.config.json', 'package.json', 'setscope.mjs', 'updateset.mjs']) cpSync(join(root, name), join(folder, name), { recursive: true })
        symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
        assert.equal(spawnSync(process.execPath, ['setscope.mjs', 'acme'], { cwd: folder }).status, 1)
        assert.equal(spawnSync(process.execPath, ['setscope.mjs', 'x_acme_unassign'], { cwd: folder }).status, 0)
        // One record less: its deletion travels with the upgrade.
        const script = join(folder, 'src/fluent/settings.now.ts')
        const sources = readFileSync(script, 'utf8')
        const [gone] = /Property\(\{\n {4}\$meta: once,\n {4}\$id: Now\.ID\['check_serial'\],[^]*?\n\}\)\n/.exec(sources)
        writeFileSync(script, sources.replace(gone, ''))
        const sdk = (...args) => spawnSync(join(root, 'node_modules/.bin/now-sdk'), ['build', ...args], { cwd: folder, encoding: 'utf8' })
        assert.notEqual(sdk('--frozenKeys').status, 0, 'the build refuses a keys file that is not current')
        const built = sdk()
        assert.equal(built.status, 0, built.stdout + built.stderr)
        assert.equal(spawnSync(process.execPath, ['updateset.mjs'], { cwd: folder }).status, 0)
        const text = readFileSync(join(folder, 'dist/update-set.xml'), 'utf8')
        assert.ok(text.includes('<name>x_acme_unassign.secret</name>') && text.includes('<event_name>x_acme_unassign.unassign</event_name>'))
        assert.ok(!text.includes(scope), 'the old scope is left')
        const deleted = (file) => parseSet(readFileSync(join(folder, 'dist', file), 'utf8')).sys_update_xml.filter(({ action }) => action === 'DELETE').map(({ type }) => type)
        assert.deepEqual([deleted('update-set.xml'), deleted('update-set-upgrade.xml')], [[], ['System Property']])
    } finally {
        rmSync(folder, { recursive: true })
    }
})

test('the scripts of npm run in any shell', () => {
    for (const script of Object.values(JSON.parse(read('package.json')).scripts)) assert.doesNotMatch(script, /^\w+=|\$|sed |rm |cp /)
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
        // The page has all codes of a status, but for 400.
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
