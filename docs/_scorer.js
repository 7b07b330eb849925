// How the site's search orders what it finds: pages for users before the reference, and that before the design notes.
"use strict";
var Scorer = {
  score: (result) => {
    const [name, , , , score] = result;
    if (name.startsWith("design/")) return score - 40;
    if (name.startsWith("reference/") || name === "glossary") return score - 10;
    if (name === "explanation/performance" || name === "explanation/tested") return score - 5;
    if (name === "troubleshooting") return score + 8;
    if (name.startsWith("howto/")) return score + 5;
    return score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
