// Writes a certificate with its key, as PEM and in the PKCS#12 files that are met in practice, into the folder named.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import forge from 'node-forge';

const folder = process.argv[2];
const { pki, pkcs12, asn1, util } = forge;
const { privateKey, publicKey } = pki.rsa.generateKeyPair(2048);
const certificate = pki.createCertificate();
certificate.publicKey = publicKey;
certificate.serialNumber = '01';
certificate.validity.notBefore = new Date(Date.now() - 3600e3);
certificate.validity.notAfter = new Date(Date.now() + 90 * 86400e3);
const name = [{ name: 'commonName', value: 'autopilot-unassign' }];
certificate.setSubject(name);
certificate.setIssuer(name);
certificate.sign(privateKey, forge.md.sha256.create());

const pem = pki.certificateToPem(certificate);
const pkcs8 = pki.privateKeyInfoToPem(pki.wrapRsaPrivateKey(pki.privateKeyToAsn1(privateKey)));
writeFileSync(join(folder, 'certificate.pem'), pem);
writeFileSync(join(folder, 'pkcs1.secret'), pki.privateKeyToPem(privateKey) + pem);
writeFileSync(join(folder, 'pkcs8.secret'), pem + pkcs8);

// Key Vault hands a PKCS#12 file out in base64 and without a password. The cipher is not documented.
for (const algorithm of ['3des', 'aes128', 'aes256']) {
  const file = asn1.toDer(pkcs12.toPkcs12Asn1(privateKey, [certificate], '', { algorithm, friendlyName: 'autopilot-unassign' }));
  writeFileSync(join(folder, `${algorithm}.secret`), util.encode64(file.getBytes()));
}
