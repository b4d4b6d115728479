// What a name means, beside the link to it: under the mouse, with the keyboard's focus, at the first tap. A second tap,
// a click and Enter follow the link; Escape hides it.
document.addEventListener("DOMContentLoaded", () => {
  const box = document.createElement("div");
  Object.assign(box, { className: "term-box", hidden: true, id: "term-box" });
  box.setAttribute("role", "tooltip");
  let shown = null;
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    box.hidden = true;
    shown = null;
  };
  const show = (link) => {
    hide();
    box.textContent = link.dataset.meaning;
    box.hidden = false;
    const { left, top, bottom } = link.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = box;
    box.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8))}px`;
    box.style.top = `${bottom + height + 8 < window.innerHeight ? bottom + 4 : top - height - 4}px`;
    link.setAttribute("aria-describedby", box.id);
    shown = link;
  };
  const links = document.querySelectorAll("a.term[title]");
  if (links.length) document.body.append(box);
  for (const link of links) {
    link.dataset.meaning = link.title;
    link.removeAttribute("title");
    let touched = false;
    link.addEventListener("pointerdown", ({ pointerType }) => { touched = pointerType === "touch" && shown !== link; });
    link.addEventListener("click", (event) => {
      if (touched) event.preventDefault();
      if (touched) show(link);
      touched = false;
    });
    link.addEventListener("pointerenter", ({ pointerType }) => { if (pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", ({ pointerType }) => { if (pointerType === "mouse") hide(); });
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", ({ key }) => { if (key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("pointerdown", ({ target }) => { if (shown && !shown.contains(target)) hide(); });
});
