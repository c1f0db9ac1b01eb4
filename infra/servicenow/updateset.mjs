// Makes dist/update-set.xml of what the SDK has built, for instances that are fed by update sets. It is the form in which an
// instance exports one; no instance has imported it yet.
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const { scope, scopeId, name } = JSON.parse(readFileSync(join(here, 'now.config.json'), 'utf8'))
const { version } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'))

// An id that is the same for each build.
const id = (...parts) => createHash('md5').update([scope, ...parts].join('\n')).digest('hex')
const text = (s) => s.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
const cdata = (s) => '<![CDATA[' + s.replaceAll(']]>', ']]]]><![CDATA[>') + ']]>'
// The table of the first record; a file may hold others that belong to it.
const tableOf = (xml, file) => {
    const found = /<record_update[^>]*>\s*<(\w+) action="/.exec(xml)
    if (!found) throw new Error(`${file} holds no record`)
    return found[1]
}

// The application comes first, since everything else belongs to it. Modules (package.json and the list of components) are left
// out: no script here imports any.
const files = ['scope', 'update'].flatMap((folder) =>
    readdirSync(join(here, 'dist/app', folder))
        .filter((file) => file.endsWith('.xml') && !file.startsWith('sys_module_'))
        .sort()
        .map((file) => join(here, 'dist/app', folder, file)))

const set = id('set', version)
const application = `<application display_value="${text(name)}">${scopeId}</application>`
const updates = files.map((file) => {
    const payload = readFileSync(file, 'utf8')
    const updateName = basename(file, '.xml')
    const table = tableOf(payload, file)
    return `<sys_update_xml action="INSERT_OR_UPDATE">
<action>INSERT_OR_UPDATE</action>
${application}
<category>customer</category>
<name>${text(updateName)}</name>
<payload>${cdata(payload)}</payload>
<remote_update_set display_value="${text(name)}">${set}</remote_update_set>
<replace_on_upgrade>false</replace_on_upgrade>
<sys_id>${id('update', updateName)}</sys_id>
<table>${table}</table>
<target_name>${text(updateName)}</target_name>
<type>${table}</type>
<update_domain>global</update_domain>
</sys_update_xml>
`
})

const out = join(here, 'dist/update-set.xml')
mkdirSync(dirname(out), { recursive: true })
writeFileSync(out, `<?xml version="1.0" encoding="UTF-8"?>
<unload unload_date="2026-01-01 00:00:00">
<sys_remote_update_set action="INSERT_OR_UPDATE">
${application}
<application_name>${text(name)}</application_name>
<application_scope>${scope}</application_scope>
<application_version>${text(version)}</application_version>
<description>${text(name)} ${text(version)}</description>
<name>${text(name)} ${text(version)}</name>
<origin_sys_id/>
<remote_sys_id>${set}</remote_sys_id>
<state>loaded</state>
<sys_id>${set}</sys_id>
<update_source/>
</sys_remote_update_set>
${updates.join('')}</unload>
`)
console.log(`${updates.length} updates in dist/update-set.xml`)
