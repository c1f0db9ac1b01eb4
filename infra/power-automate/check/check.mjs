// Reads a Swagger file as other programs do: node check.mjs FILE. infra/connector_test.go
// checks the file against this repository; this is an independent reader.
import SwaggerParser from '@apidevtools/swagger-parser'

const file = process.argv[2]
const api = await SwaggerParser.validate(file, { resolve: { external: false } })
const operations = Object.values(api.paths).flatMap((path) => Object.values(path)).map((operation) => operation.operationId)
if (operations.length === 0) throw new Error(`${file} has no operation`)
console.log(`${file}: Swagger ${api.swagger} with ${operations.length} operations: ${operations.join(', ')}`)
