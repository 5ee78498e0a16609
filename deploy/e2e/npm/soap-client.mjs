// A SOAP client of the npm package soap reads a service's description and calls it.
//
// Usage: node soap-client.mjs ADDRESS KEYNAME KEYFILE
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import soap from 'soap';

const [address, keyName, keyFile] = process.argv.slice(2);
const { hostname, pathname } = new URL(address);
const resource = encodeURIComponent(`http://${hostname}${pathname}`);
const expiry = Math.floor(Date.now() / 1000) + 600;
const signature = createHmac('sha256', readFileSync(keyFile, 'utf8')).update(`${resource}\n${expiry}`).digest('base64');
const token = `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${keyName}`;

const client = await soap.createClientAsync(`${address}?wsdl`, { endpoint: address, wsdl_headers: { ServiceBusAuthorization: token } });
client.addHttpHeader('ServiceBusAuthorization', token);
assert.deepEqual(client.describe().Orders.OrdersPort.Total.output, { total: 'xs:double' });

const [{ total }] = await client.TotalAsync({ price: [1.5, 2, 3.25] });
assert.equal(total, 6.75);

for (const text of ['ß→𐍈 <&> "quoted"', 'x'.repeat(60_000), 'longer'.repeat(1 << 18)]) {
  const [answer] = await client.EchoAsync({ text });
  assert.equal(answer.text, text);
}

await assert.rejects(client.RefuseAsync({ text: 'too much' }), (error) => {
  assert.equal(error.root.Envelope.Body.Fault.faultstring, 'refused: too much');
  assert.equal(error.response.status, 500);
  return true;
});

const many = await Promise.all(Array.from({ length: 50 }, (_, i) => client.TotalAsync({ price: [i, 1] })));
assert.deepEqual(many.map(([answer]) => Number(answer.total)), many.map((_, i) => i + 1));
