// Starts one viewer of a page: `el` holds its data, `packed` is the viewer's module, deflated and in
// base64, and `name` changes with it. Whichever viewer comes first unpacks the module for all, whose
// function `entry` is given the element.
(el, packed, name, entry) => {
  const say = (text) => { el.querySelector("p").textContent = text; };
  const load = async () => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const text = await new Response(stream).text();
    return import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  };
  if (typeof DecompressionStream !== "function") {
    say("This browser cannot unpack the viewer: it has no DecompressionStream. " +
        "Chrome and Edge from version 80, Firefox from 113 and Safari from 16.4 have it.");
    return;
  }
  (globalThis[name] ??= load())
    .then((viewer) => viewer[entry](el))
    .catch((error) => say(`The viewer could not be started: ${error.message}`));
}
