// Reads a Swagger file as other programs do: node check.mjs FILE. What this project says of itself is held to by
// infra/connector_test.go; this is a reader that nobody here has written.
import SwaggerParser from '@apidevtools/swagger-parser'

const file = process.argv[2]
const api = await SwaggerParser.validate(file, { resolve: { external: false } })
const operations = Object.values(api.paths).flatMap((path) => Object.values(path)).map((operation) => operation.operationId)
if (operations.length === 0) throw new Error(`${file} has no operation`)
console.log(`${file}: Swagger ${api.swagger} with ${operations.length} operations: ${operations.join(', ')}`)
