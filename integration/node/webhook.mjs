// Sends the body in BODY to ADDRESS, signed with SECRET by the library of Standard Webhooks, and prints the status and the
// body of the response.
import { randomUUID } from 'node:crypto';
import { Webhook } from 'standardwebhooks';

const { ADDRESS, SECRET, BODY } = process.env;
const id = `msg_${randomUUID()}`;
const now = new Date();
const response = await fetch(ADDRESS, {
  method: 'POST',
  body: BODY,
  headers: {
    'content-type': 'application/json',
    prefer: 'return=representation',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(now / 1000)),
    'webhook-signature': new Webhook(SECRET).sign(id, now, BODY),
  },
});
console.log(response.status, await response.text());
