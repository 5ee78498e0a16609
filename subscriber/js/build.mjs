// Makes outrelay.js from src/outrelay.js, or with a file's name that file. It takes terser from
// deploy/e2e/npm, where "deploy/e2e/prepare" puts it at a fixed version.
import { readFile, writeFile } from 'node:fs/promises';
import { minify } from '../../deploy/e2e/npm/node_modules/terser/main.js';

const here = (name) => new URL(name, import.meta.url);
const { code } = await minify(await readFile(here('src/outrelay.js'), 'utf8'), {
  module: true,
  compress: { passes: 4, ecma: 2022, unsafe: true },
  format: { ecma: 2022, preamble: '// outrelay, Apache-2.0; source: src/outrelay.js' },
});
await writeFile(process.argv[2] ?? here('outrelay.js'), code + '\n');
