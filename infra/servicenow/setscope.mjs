// Sets the scope of the application: npm run scope x_acme_unassign. The ids of all records stay.
import { readFileSync, writeFileSync } from 'node:fs'

const scope = process.argv[2] ?? ''
if (!/^x_[a-z0-9]+_[a-z0-9_]+$/.test(scope) || scope.length > 18) {
    console.error('usage: npm run scope x_COMPANY_NAME, of at most 18 characters')
    process.exit(1)
}
const config = new URL('now.config.json', import.meta.url)
const old = JSON.parse(readFileSync(config, 'utf8')).scope
for (const file of [config, new URL('src/fluent/generated/keys.ts', import.meta.url)]) {
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll(`${old}.`, `${scope}.`).replace(`"scope": "${old}"`, `"scope": "${scope}"`))
}
console.log(`The scope is ${scope}. Next: npm run build`)
