// Has each object of KEDA and the Prometheus operator judged by its schema. A kind without one is an error.
//
//   node operators.mjs NODE_MODULES OBJECTS.json
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, objects] = process.argv.slice(2);
const schemas = async (path) => import(pathToFileURL(`${modules}/@kubernetes-models/${path}/index.js`));
const kinds = {
  "keda.sh/v1alpha1": await schemas("keda/keda.sh/v1alpha1"),
  "monitoring.coreos.com/v1": await schemas("prometheus-operator/monitoring.coreos.com/v1"),
};

let wrong = 0;
for (const object of objects ? JSON.parse(readFileSync(objects, "utf8")) : []) {
  try {
    const Kind = kinds[object.apiVersion]?.[object.kind];
    if (!Kind) throw new Error("no schema");
    new Kind(object).validate();
  } catch (error) {
    console.log(`${object.kind}: ${error.message}`);
    wrong = 1;
  }
}
process.exit(wrong);
