// Reads the records that the SDK has built.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { XMLParser } from 'fast-xml-parser'

export const root = fileURLToPath(new URL('..', import.meta.url))

const parser = new XMLParser({ ignoreAttributes: false, parseTagValue: false, trimValues: false, processEntities: true, isArray: (_name, _path, _leaf, attribute) => !attribute })

// records returns all records of the build as { table, fields, file, folder }. Records in unload are for a first installation.
export function records() {
    const found = []
    for (const [folder, file] of ['update', 'unload'].flatMap((folder) => readdirSync(join(root, 'dist/app', folder)).sort().map((file) => [folder, file]))) {
        if (!file.endsWith('.xml')) continue
        const update = parser.parse(readFileSync(join(root, 'dist/app', folder, file), 'utf8')).record_update[0]
        for (const [table, rows] of Object.entries(update)) {
            if (table.startsWith('@_') || table === '#text') continue
            for (const row of rows) {
                if (row['@_action'] !== 'INSERT_OR_UPDATE') continue
                const fields = {}
                for (const [name, values] of Object.entries(row)) {
                    if (!name.startsWith('@_') && name !== '#text') fields[name] = text(values[0])
                }
                found.push({ table, fields, file, folder })
            }
        }
    }
    return found
}

const text = (value) => (value !== null && typeof value === 'object' ? (value['#text'] ?? '') : `${value ?? ''}`)

// one returns the fields of the single record of a table with that value of a field.
export function one(all, table, field, value) {
    const found = all.filter((r) => r.table === table && r.fields[field] === value)
    if (found.length !== 1) throw new Error(`${found.length} records of ${table} with ${field} ${value}`)
    return found[0].fields
}
