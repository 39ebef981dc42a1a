// The theme lets the keyboard reach wide code only where there is a mouse as well. Here it always does.
for (const code of document.querySelectorAll("pre > code")) {
  new MutationObserver(() => {
    if (!code.hasAttribute("tabindex")) code.setAttribute("tabindex", "0");
  }).observe(code, { attributes: true, attributeFilter: ["tabindex"] });
}
