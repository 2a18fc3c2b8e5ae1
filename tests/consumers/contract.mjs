// docs/asyncapi.yaml to the AsyncAPI parser; docs/schemas and tests/golden to ajv. The argument is the repository.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Parser, fromFile } from '@asyncapi/parser'
import Ajv from 'ajv'
import addFormats from 'ajv-formats'

const root = process.argv[2]
let faults = 0
const fault = (text) => {
  faults += 1
  console.error(text)
}

const { document, diagnostics } = await fromFile(new Parser(), join(root, 'docs/asyncapi.yaml')).parse()
// 0 is an error, 1 a warning; the others are advice.
for (const found of diagnostics.filter((one) => one.severity <= 1)) {
  fault(`docs/asyncapi.yaml: ${found.path.join('/')}: ${found.message}`)
}
const types = document?.messages().all().map((message) => message.name()) ?? []
// Without what the parser writes into it.
const headers = JSON.parse(
  JSON.stringify(document?.components().schemas().get('Headers').json() ?? {}, (key, value) =>
    key.startsWith('x-parser') ? undefined : value,
  ),
)

const ajv = addFormats(new Ajv({ strict: true, allErrors: true }))
const golden = readdirSync(join(root, 'tests/golden')).sort()
for (const file of golden) {
  const message = JSON.parse(readFileSync(join(root, 'tests/golden', file)))
  const schema = JSON.parse(readFileSync(join(root, `docs/schemas/${message.routing_key}.json`)))
  const validate = ajv.getSchema(schema.$id) ?? ajv.compile(schema)
  if (!validate(message.body)) fault(`${file}: ${ajv.errorsText(validate.errors)}`)
  if (!ajv.validate(headers, message.headers)) fault(`${file}, headers: ${ajv.errorsText()}`)
  if (!types.includes(message.routing_key)) fault(`${file}: docs/asyncapi.yaml has no such message`)
}
console.log(`AsyncAPI: ${types.length} messages; ${golden.length} golden messages fit their schemas; ${faults} faults`)
process.exit(faults === 0 ? 0 : 1)
