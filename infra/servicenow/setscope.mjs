// Sets the scope of the application in now.config.json: npm run scope x_acme_unassign
import { readFileSync, writeFileSync } from 'node:fs'

const file = new URL('now.config.json', import.meta.url)
const scope = process.argv[2] ?? ''
if (!/^x_[a-z0-9]+_[a-z0-9_]+$/.test(scope) || scope.length > 18) {
    console.error('usage: npm run scope x_COMPANY_NAME, of at most 18 characters')
    process.exit(1)
}
writeFileSync(file, readFileSync(file, 'utf8').replace(/("scope": )"[^"]*"/, `$1"${scope}"`))
console.log(`The scope is ${scope}. Next: npm run keys`)
