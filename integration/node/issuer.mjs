// Runs oauth2-mock-server as the identity provider of one tenant. It is told by the environment: ISSUER is the address that
// it is reached at from outside, TENANT the tenant, SECRET the client secret that it accepts. It listens on a free port of
// loopback and prints it. Claims in the form of a request for a token, as JSON, replace the claims of the token.
import { OAuth2Server } from 'oauth2-mock-server';

const { ISSUER, TENANT, SECRET } = process.env;
const server = new OAuth2Server();
// Entra ID states the use of its keys.
Object.assign(await server.issuer.keys.generate('RS256'), { use: 'sig' });
server.issuer.url = ISSUER;

server.service.on('beforeTokenSigning', (token, req) => {
  const { scope = '', client_id: app, claims = '{}' } = req.body;
  const resource = scope.split(' ').find((s) => s.endsWith('/.default')) ?? '';
  delete token.payload.scope;
  Object.assign(token.payload, {
    aud: resource.replace(/\/\.default$/, ''), tid: TENANT, ver: '2.0', azp: app, azpacr: '1', oid: app, sub: app, idtyp: 'app', roles: [],
  }, JSON.parse(claims));
});

server.service.on('beforeResponse', (response, req) => {
  if (req.body.client_secret !== SECRET) {
    response.statusCode = 401;
    response.body = { error: 'invalid_client', error_description: 'the client secret is wrong' };
  }
});

await server.start(0, '127.0.0.1');
console.log(`port ${server.address().port}`);
