
"use strict";
(() => {
  const { pieces, pairs } = JSON.parse(document.getElementById("data").textContent);
  const panel = document.getElementById("panel");
  if (panel === null) return;
  let open = null;

  const element = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const share = (p) =>
    p > 0 && p < 1e-5 ? "< 0.001 %" : (100 * p).toFixed(p >= 0.1 ? 1 : p >= 0.01 ? 2 : 3) + " %";

  const named = (number) => {
    const [text, kind] = pieces[number];
    const made = element("bdi", "");
    if (kind === 1) made.append(element("span", "mark", "##"));
    made.append(text);
    return made;
  };

  const row = (name, p, kind) => {
    const made = element("li", kind);
    const fill = element("div", "fill"), track = element("div", "track");
    fill.style.width = Math.min(100, 100 * p) + "%";
    track.append(fill);
    made.append(name, track, element("span", "share", share(p)));
    return made;
  };

  const fill = (button) => {
    const target = button.closest(".target");
    const position = [...target.querySelectorAll("button")].indexOf(button);
    const [written, p, surprise, listed] = pairs[target.dataset.pair][position];
    const head = element("p", "", "written ");
    head.append(named(written), ` ${share(p)}, −log p ${surprise === null ? "∞" : surprise.toFixed(2)}`);
    const list = element("ol", "");
    let shown = 0;
    for (let i = 0; i < listed.length; i += 2) {
      list.append(row(named(listed[i]), listed[i + 1], listed[i] === written ? "written" : ""));
      shown += listed[i + 1];
    }
    list.append(row(element("span", "", "all others"), Math.max(0, 1 - shown), "tail"));
    panel.replaceChildren(head, list);
  };

  const place = (button) => {
    const box = button.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, width - panel.offsetWidth - 8));
    const below = box.bottom + 4, above = box.top - 4 - panel.offsetHeight;
    const top = below + panel.offsetHeight > window.innerHeight && above >= 0 ? above : below;
    panel.style.left = left + window.scrollX + "px";
    panel.style.top = top + window.scrollY + "px";
  };

  const close = () => {
    if (open === null) return;
    open.classList.remove("open");
    open.removeAttribute("aria-describedby");
    open = null;
    panel.hidden = true;
  };

  const show = (button) => {
    if (open === button) return;
    close();
    open = button;
    button.classList.add("open");
    button.setAttribute("aria-describedby", "panel");
    fill(button);
    panel.hidden = false;
    place(button);
  };

  const buttonOf = (event) => (event.target instanceof Element ? event.target.closest(".target button") : null);

  // The panel says the same and more.
  for (const button of document.querySelectorAll(".target button")) button.removeAttribute("title");

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const button = buttonOf(event);
    if (button) show(button);
    else if (!panel.contains(event.target) && open !== document.activeElement) close();
  });
  document.addEventListener("click", (event) => {
    const button = buttonOf(event);
    if (button) show(button);
    else if (!panel.contains(event.target)) close();
  });
  document.addEventListener("focusin", (event) => {
    const button = buttonOf(event);
    if (button) show(button);
    else close();
  });
  window.addEventListener("resize", () => {
    if (open !== null) place(open);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return close();
    const button = buttonOf(event);
    if (!button) return;
    const words = [...button.closest(".target").querySelectorAll("button")];
    const ahead = getComputedStyle(button.closest(".target")).direction === "rtl" ? -1 : 1;
    const at = words.indexOf(button);
    const next = { ArrowRight: at + ahead, ArrowLeft: at - ahead, Home: 0, End: words.length - 1 }[event.key];
    if (next === undefined || !words[next]) return;
    event.preventDefault();
    button.tabIndex = -1;
    words[next].tabIndex = 0;
    words[next].focus();
  });

  const sample = document.getElementById("sample"), search = document.getElementById("search");
  const order = document.getElementById("order"), found = document.getElementById("found");
  const articles = [...sample.children];
  const textOf = (article) => {
    const words = [...article.querySelectorAll(".word")].map((word) => word.textContent).join(" ");
    return `${article.querySelector(".source").textContent} ${words} ${article.dataset.line}`.toLowerCase();
  };
  const texts = new Map(articles.map((article) => [article, textOf(article)]));
  const arrange = () => {
    const wanted = search.value.trim().toLowerCase();
    close();
    let count = 0;
    for (const article of articles) {
      article.hidden = !texts.get(article).includes(wanted);
      count += article.hidden ? 0 : 1;
    }
    const key = order.value === "mean" ? (one) => -one.dataset.mean : (one) => +one.dataset.line;
    sample.replaceChildren(...[...articles].sort((a, b) => key(a) - key(b)));
    found.textContent = `${count} of ${articles.length} shown`;
  };
  search.addEventListener("input", arrange);
  order.addEventListener("change", arrange);
  arrange();
})();
