// Makes two update sets of the SDK's build, for instances without the SDK:
//
//   dist/update-set.xml           everything, for the first installation
//   dist/update-set-upgrade.xml   without the settings, the rule and the button: an upgrade leaves them as they are
//
// The form is the form of exported update sets. No instance has imported them yet.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const { scope, scopeId, name } = JSON.parse(readFileSync(join(here, 'now.config.json'), 'utf8'))
const { version, config: { released } } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'))

// The names that the platform shows for tables. The preview lists the updates by them.
const types = {
    sys_app: 'Custom Application', sys_alias: 'Connection & Credential Aliases', sys_atf_step: 'Test Step', sys_atf_test: 'Test',
    sys_hub_action_type_definition: 'Action Type', sys_properties: 'System Property', sys_retry_policy: 'Retry Policy', sys_scope_privilege: 'Cross scope privilege',
    sys_script: 'Business Rule', sys_script_include: 'Script Include', sys_security_acl: 'Access Control', sys_security_acl_role: 'Access Roles', sys_ui_action: 'UI Action',
    sys_ui_action_role: 'UI Action Role', sys_user_role: 'Role', sys_user_role_contains: 'Contained Role', sysauto_script: 'Scheduled Script Execution',
    sysevent_register: 'Event Registration', sysevent_script_action: 'Script Action',
}

// newID returns an id that is the same in each build.
const newID = (...parts) => createHash('md5').update([scope, ...parts].join('\n')).digest('hex')
const escape = (s) => s.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
const cdata = (s) => '<![CDATA[' + s.replaceAll(']]>', ']]]]><![CDATA[>') + ']]>'
const application = `<application display_value="${escape(name)}">${scopeId}</application>`

// readUpdates returns the records of a folder of the build. Modules (package.json and the list of components) stay out: no script
// imports one.
const readUpdates = (folder) => {
    const path = join(here, 'dist/app', folder)
    if (!existsSync(path)) return []
    return readdirSync(path).filter((file) => file.endsWith('.xml') && !file.startsWith('sys_module_')).sort().map((file) => {
        let xml = readFileSync(join(path, file), 'utf8')
        const [, table, action] = /<record_update[^>]*>\s*<(\w+) action="(\w+)"/.exec(xml) ?? []
        if (!table) throw new Error(`${file} holds no record`)
        if (!(table in types)) throw new Error(`${file}: what does the platform call the table ${table}?`)
        // The first record of a file is the update; others belong to it.
        const first = xml.slice(xml.indexOf(`<${table} `), xml.indexOf(`</${table}>`))
        const field = (element) => new RegExp(`<${element}(?: [^>]*)?>([^<]*)<`).exec(first)?.[1] ?? ''
        xml = xml.replace('<record_update>', `<record_update sys_domain="global" table="${table}">`).replace(/<package_json>[^<]*<\/package_json>/, '<package_json/>')
        const named = [...first.matchAll(/ name="([^"]*)"/g)].map((m) => m[1]).join(' in ') // of records that join two others
        const label = ['display_name', 'name', 'event_name'].map(field).find(Boolean) || [field('target_name'), field('operation')].join(' ').trim() || named || basename(file, '.xml')
        return { file: basename(file, '.xml'), table, action, xml, label, on: field('collection') || (table === 'sys_ui_action' ? field('table') : '') }
    })
}

const write = (file, title, updates) => {
    const set = newID(title, version)
    const body = updates.map(({ file, table, action, xml, label, on }) => `<sys_update_xml action="INSERT_OR_UPDATE">
<action>${action}</action>
${application}
<category>customer</category>
<comments/>
<name>${file}</name>
<payload>${cdata(xml)}</payload>
<remote_update_set display_value="${escape(title)}">${set}</remote_update_set>
<replace_on_upgrade>false</replace_on_upgrade>
<sys_class_name>sys_update_xml</sys_class_name>
<sys_created_by>autopilot-unassign</sys_created_by>
<sys_created_on>${released}</sys_created_on>
<sys_id>${newID(title, file)}</sys_id>
<sys_mod_count>0</sys_mod_count>
<sys_updated_by>autopilot-unassign</sys_updated_by>
<sys_updated_on>${released}</sys_updated_on>
<table>${on}</table>
<target_name>${label}</target_name>
<type>${escape(types[table])}</type>
<update_domain>global</update_domain>
<update_set display_value=""/>
<view/>
</sys_update_xml>
`).join('')
    writeFileSync(join(here, 'dist', file), `<?xml version="1.0" encoding="UTF-8"?>
<unload unload_date="${released}">
<sys_remote_update_set action="INSERT_OR_UPDATE">
${application}
<application_name>${escape(name)}</application_name>
<application_scope>${scope}</application_scope>
<application_version>${version}</application_version>
<description>${escape(title)}</description>
<name>${escape(title)}</name>
<origin_sys_id/>
<release_date/>
<remote_sys_id>${set}</remote_sys_id>
<state>loaded</state>
<sys_class_name>sys_remote_update_set</sys_class_name>
<sys_created_by>autopilot-unassign</sys_created_by>
<sys_created_on>${released}</sys_created_on>
<sys_id>${set}</sys_id>
<sys_mod_count>0</sys_mod_count>
<sys_updated_by>autopilot-unassign</sys_updated_by>
<sys_updated_on>${released}</sys_updated_on>
<update_source/>
</sys_remote_update_set>
${body}</unload>
`)
    console.log(`${updates.length} updates in dist/${file}`)
}

// The application comes first: everything else belongs to it. A role that is contained is inserted once: again it would be a
// duplicate.
const [app, update, first, deleted] = ['scope', 'update', 'unload', 'author_elective_update'].map(readUpdates)
write('update-set.xml', `${name} ${version}`, [...app, ...update, ...first])
write('update-set-upgrade.xml', `${name} ${version}, upgrade`, [...app, ...update.filter(({ table }) => table !== 'sys_user_role_contains'), ...deleted])
