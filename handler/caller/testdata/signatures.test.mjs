// Holds the signing function of docs/callers.md to signatures.json: node --test signatures.test.mjs
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const text = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const [, script] = text('../../../docs/callers.md').match(/^```javascript\n([\s\S]*?)^```$/m);
const { sign } = await import(`data:text/javascript;base64,${Buffer.from(script).toString('base64')}`);

for (const { name, key, id, timestamp, body, signature } of JSON.parse(text('signatures.json'))) {
  test(name, () => assert.ok(signature.split(' ').includes(sign(key, id, timestamp, body))));
}
