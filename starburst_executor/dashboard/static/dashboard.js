// Puts the fragments that the server sends into the page, and counts seconds. Everything works without it, except that nothing moves.
"use strict";
(() => {
  const skew = Date.now() / 1000 - Number(document.body.dataset.now || Date.now() / 1000);
  const late = new Map(), orders = new Map(), fresh = new Set();
  let source = null, failures = 0, waiting = 0, isOver = false;

  function text(seconds) {
    if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
    if (seconds < 60) return `${seconds.toFixed(0)} s`;
    const minutes = seconds / 60;
    if (minutes < 60) return `${minutes.toFixed(0)} min`;
    return minutes < 2880 ? `${(minutes / 60).toFixed(1)} h` : `${(minutes / 1440).toFixed(1)} d`;
  }

  function tick() {
    if (document.hidden || isOver) return;
    const now = Date.now() / 1000 - skew;
    for (const time of document.querySelectorAll("time[data-since]")) {
      const shown = text(Math.max(0, now - Number(time.dataset.since)));
      if (time.textContent !== shown) time.textContent = shown;
    }
  }

  function put(name, html) {
    if (name === "title") {
      document.title = new DOMParser().parseFromString(html, "text/html").body.textContent;
      return;
    }
    if (name[0] === "=") {
      orders.set(name.slice(1), html.split(" "));
      return;
    }
    let element;
    if (name[0] === "+" || name[0] === "^") {
      const [table, row] = name.slice(1).split("/");
      element = document.getElementById(row);
      if (!element && document.getElementById(table)) {
        element = document.createElement("tr");
        element.id = row;
        fresh.add(row);
        if (name[0] === "+") document.getElementById(table).append(element);
        else document.getElementById(table).prepend(element);
      }
    } else {
      element = document.getElementById(name);
    }
    if (!element) return;
    late.delete(name);
    // The focus stays where it is: a part that holds it is replaced once it does not.
    if (element.contains(document.activeElement)) late.set(name, html);
    else element.innerHTML = html;
  }

  // Rows that are no more go, and new ones come to their places. The others stay where they are, and with them the focus.
  function arrange(table, rows) {
    const body = document.getElementById(table);
    if (!body) return;
    for (const row of [...body.rows]) {
      if (rows.includes(row.id)) continue;
      row.remove();
      for (const sign of "+^") late.delete(`${sign}${table}/${row.id}`);
    }
    rows.forEach((id, i) => {
      const row = document.getElementById(id);
      if (!row || !fresh.delete(id)) return;
      const before = i ? document.getElementById(rows[i - 1]) : null;
      if (before) before.after(row);
      else if (!i) body.prepend(row);
    });
  }

  function say(words) {
    const link = document.getElementById("link");
    if (link) link.textContent = words;
  }

  function end(words) {
    isOver = true;
    source.close();
    clearTimeout(waiting);
    say(words);
  }

  function listen() {
    if (source) source.close();
    clearTimeout(waiting);
    if (isOver) return;
    const hidden = document.hidden ? "&hidden=1" : "";
    source = new EventSource(document.body.dataset.events + hidden);
    source.addEventListener("update", (event) => {
      failures = 0;
      say("");
      for (const [name, html] of Object.entries(JSON.parse(event.data))) put(name, html);
      orders.forEach((rows, table) => arrange(table, rows));
      tick();
    });
    source.addEventListener("gone", () => end(""));
    source.onerror = () => {
      source.close();
      failures += 1;
      say("The dashboard does not answer; trying again.");
      waiting = setTimeout(listen, Math.min(30, 2 ** failures) * 1000);
      // An event source does not tell why it has failed.
      fetch(location.href, { method: "HEAD" }).then((answer) => {
        if (answer.status === 401) end("The dashboard was started again: open the address that it printed.");
      }, () => {});
    };
  }

  async function reload() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href);
      const main = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
      const shown = document.getElementById("main");
      if (!shown.contains(document.activeElement) || shown === document.activeElement) shown.innerHTML = main.innerHTML;
      say("");
    } catch {
      say("The dashboard does not answer; trying again.");
    }
  }

  document.addEventListener("focusout", () => setTimeout(() => [...late].forEach(([name, html]) => put(name, html))));
  setInterval(tick, 1000);
  tick();
  const every = Number(document.body.dataset.reload || 0);
  if (every) setInterval(reload, every * 1000);
  if (!document.body.dataset.events) return;
  document.addEventListener("visibilitychange", listen);
  addEventListener("pagehide", () => source && source.close());
  addEventListener("pageshow", (event) => event.persisted && listen());
  listen();
})();
