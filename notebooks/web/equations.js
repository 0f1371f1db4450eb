// What MathJax, the next script, is to do: only the marked equations, as drawings with MathML behind them for screen readers.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEnvironments: false },
  svg: { fontCache: "global" },
  options: {
    ignoreHtmlClass: "page",
    processHtmlClass: "math",
    enableMenu: false,
  },
  startup: {
    pageReady: () => MathJax.startup.defaultPageReady().then(() => document.dispatchEvent(new Event("equations"))),
  },
};
