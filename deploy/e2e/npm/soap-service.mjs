// A SOAP service, of the npm package soap, behind Microsoft's package hyco-https.
//
// Usage: node soap-service.mjs GATEWAY KEYNAME KEYFILE PATH
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import soap from 'soap';

const https = createRequire(import.meta.url)('hyco-https');
const [gateway, keyName, keyFile, path] = process.argv.slice(2);
const key = readFileSync(keyFile, 'utf8');
const { host, hostname } = new URL(gateway);

const fault = (text) => ({ Fault: { faultcode: 'soap:Server', faultstring: text, statusCode: 500 } });
const service = {
  Orders: {
    OrdersPort: {
      Total: ({ price = [] }) => ({ total: [].concat(price).map(Number).reduce((a, b) => a + b, 0) }),
      Echo: ({ text }) => ({ text }),
      Refuse: ({ text }) => { throw fault(`refused: ${text}`); },
    },
  },
};

const server = https.createRelayedServer({
  server: `wss://${host}/$hc/${path}?sb-hc-action=listen`,
  token: https.createRelayToken(https.createRelayHttpsUri(hostname, path), keyName, key),
}, (request, response) => {
  response.statusCode = 404;
  response.end('no such service');
});
soap.listen(server, `/${path}`, service, readFileSync('soap.wsdl', 'utf8'), () => {
  server.on('listening', () => console.log('listening'));
  server.listen();
});
