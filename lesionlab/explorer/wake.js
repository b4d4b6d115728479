// Wakes a model in the page. Its graphs and onnxruntime-web lie in the site, as scripts that hold text:
// a page that was opened from a folder may load nothing else. They run in a worker, so that the page
// stays quick.

const NO_SIMD = "This browser has no WebAssembly SIMD, which the model needs. " +
  "Chrome and Edge from version 91, Firefox from 89 and Safari from 16.4 have it.";

// a module whose one function uses SIMD
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
                           253, 15, 253, 98, 11);
const hasSIMD = () => typeof WebAssembly === "object" && WebAssembly.validate(SIMD);

// text by name of a file and number of its part; the site's scripts call lesionlabPart
const shelf = (globalThis.lesionlabShelf ??= {});
globalThis.lesionlabPart ??= (name, part, text) => { (shelf[name] ??= [])[part] = text; };

const addScript = (url) => new Promise((done, fail) => {
  const element = make("script", { src: url });
  element.addEventListener("load", () => { element.remove(); done(); });
  element.addEventListener("error", () => { element.remove(); fail(new Error(`The file ${url.split("/").at(-1)} cannot be read.`)); });
  document.head.append(element);
});

// where the book's files for live models lie; Sphinx says on every page where its root is
const folderOfSite = () => {
  const root = document.documentElement.dataset.content_root;
  return root === undefined ? null : new URL(`${root}_static/live/`, document.baseURI).href;
};

// The site's list of files: { files: { name: { parts, bytes } }, runtime: [module, wasm], reason }.
const siteIndex = async () => {
  const folder = folderOfSite();
  if (!folder) throw new Error("The model can be woken on the pages of the built book only.");
  await (globalThis.lesionlabIndex ??= addScript(`${folder}index.js`));
  const index = globalThis.lesionlabLive;
  if (!index?.files) throw new Error("The file index.js is cut off.");
  if (index.reason) throw new Error(`This book was built without live models: ${index.reason}.`);
  return index;
};

const bytesOf = async (name, { parts }, tell) => {
  for (let part = 0; part < parts; part++) {
    const file = `${name}.${part}.js`;
    if (!shelf[name]?.[part]) await addScript(folderOfSite() + file);
    if (!shelf[name]?.[part]) throw new Error(`The file ${file} is cut off.`);
    tell();
  }
  return unpack(shelf[name].join(""));
};

// the worker's code
const atWork = () => {
  const sessions = {};
  let ort;
  const tasks = {
    async wake({ runtime, wasm, graphs }) {
      ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
      Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: 1 });
      for (const [name, graph] of Object.entries(graphs)) sessions[name] = await ort.InferenceSession.create(graph);
    },
    async run({ graph, input, data, dims }) {
      const found = await sessions[graph].run({ [input]: new ort.Tensor("float32", data, dims) });
      return Object.fromEntries(Object.entries(found).map(([name, { data, dims }]) => [name, { data, dims: [...dims] }]));
    },
  };
  onmessage = async ({ data: { id, task, given } }) => {
    try {
      postMessage({ id, found: await tasks[task](given) });
    } catch (error) {
      postMessage({ id, error: String(error?.message ?? error) });
    }
  };
};

// Wakes the model of that key, whose graphs are `trunk` and `head`; tell(share) from 0 to 1. Gives
// run(graph, input, data, dims), which gives the outputs by name, each { data, dims }.
const wake = async (key, tell) => {
  if (!hasSIMD()) throw new Error(NO_SIMD);
  const { files, runtime } = await siteIndex();
  const names = [...runtime, `${key}-trunk`, `${key}-head`];
  if (names.some((name) => !files[name])) throw new Error(`This book was built without the model ${key}.`);
  const all = names.reduce((sum, name) => sum + files[name].parts, 0);
  let read = 0;
  const got = [];
  for (const name of names) got.push(await bytesOf(name, files[name], () => tell((read += 1) / (all + 1))));
  const worker = new Worker(URL.createObjectURL(new Blob([`(${atWork})()`], { type: "text/javascript" })));
  const waiting = new Map();
  let asked = 0;
  worker.onmessage = ({ data: { id, found, error } }) => {
    const [done, fail] = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) done(found);
    else fail(new Error(`The model cannot run: ${error}`));
  };
  const ask = (task, given) => new Promise((done, fail) => {
    waiting.set(asked += 1, [done, fail]);
    worker.postMessage({ id: asked, task, given });
  });
  worker.onerror = (event) => {
    for (const [, fail] of waiting.values()) fail(new Error(`The model cannot run: ${event.message ?? "its worker did not start"}`));
    waiting.clear();
  };
  const [module_, wasm, trunk, head] = got;
  try {
    await ask("wake", { runtime: module_, wasm: wasm.buffer, graphs: { trunk, head } });
  } catch (error) {
    worker.terminate();
    throw error;
  }
  tell(1);
  return (graph, input, data, dims) => ask("run", { graph, input, data, dims });
};
