// The theme lets the keyboard reach wide code only where there is a mouse as well, and wide tables, which it wraps
// when the page is there, nowhere. Here it always reaches both.
const WIDE = "pre > code:not([tabindex]), .md-typeset__scrollwrap:not([tabindex])";
const reach = () => document.querySelectorAll(WIDE).forEach((part) => part.setAttribute("tabindex", "0"));
reach();
new MutationObserver(reach).observe(document.body, {
  attributeFilter: ["tabindex"],
  childList: true,
  subtree: true,
});
