// The list of versions in the sidebar, from `versions.js`: leads to the same page of another version, or to its first page.
// It is read with a script element and never fetched, so it works from a disk (file://) as well as on any static host.
"use strict";
(() => {
  const select = document.getElementById("versions");
  const versions = window.siteVersions || [];
  if (!select || !versions.length) return;

  const root = new URL(document.documentElement.dataset.content_root || "./", document.location);
  const folder = decodeURIComponent(root.pathname.split("/").slice(-2)[0]);
  const page = document.location.pathname.slice(root.pathname.length) || "index.html";
  // A copy under another name stays what it is at the top of the list.
  const here = versions.includes(folder) ? folder : "";
  if (here) select.replaceChildren();
  for (const version of versions) select.add(new Option(version, version));
  const reset = () => (select.value = here);
  reset();
  window.addEventListener("pageshow", reset); // after "back"

  select.addEventListener("change", () => {
    if (select.value === here) return;
    const other = new URL(`../${encodeURIComponent(select.value)}/`, root);
    const pages = document.createElement("script");
    pages.onload = () => {
      const isThere = window.sitePages.includes(decodeURIComponent(page));
      document.location.assign(isThere ? new URL(page + document.location.hash, other) : new URL("index.html", other));
    };
    pages.onerror = () => document.location.assign(new URL("index.html", other));
    pages.src = new URL("_static/pages.js", other);
    document.head.append(pages);
  });
})();
