// Arrow keys, space, Page Up/Down, Home and End move; the place is kept in the address. A slide that is too tall for
// the window is set smaller until it fits.
(() => {
  const slides = [...document.querySelectorAll("section")];
  const place = document.getElementById("place");
  let now = 0;

  function fit(slide) {
    const inner = slide.querySelector(".inner");
    for (let size = 100; size >= 40; size -= 4) {
      inner.style.fontSize = size + "%";
      if (inner.offsetHeight <= slide.clientHeight - 24 && inner.scrollWidth <= inner.clientWidth + 1) break;
    }
  }

  function show(wanted) {
    now = Math.max(0, Math.min(slides.length - 1, wanted));
    slides.forEach((slide, i) => slide.classList.toggle("now", i === now));
    fit(slides[now]);
    place.textContent = `${now + 1} of ${slides.length}`;
    history.replaceState(null, "", "#" + (now + 1));
  }

  const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1,
                  Home: -Infinity, End: Infinity };
  document.addEventListener("keydown", (event) => {
    const onControl = event.key === " " && event.target.closest("button, a");
    if (!(event.key in steps) || onControl || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(now + steps[event.key]);
  });
  document.getElementById("next").addEventListener("click", () => show(now + 1));
  document.getElementById("back").addEventListener("click", () => show(now - 1));
  addEventListener("hashchange", () => show((parseInt(location.hash.slice(1), 10) || 1) - 1));
  addEventListener("resize", () => fit(slides[now]));
  document.addEventListener("equations", () => fit(slides[now]));
  document.documentElement.classList.add("live");
  document.body.classList.add("live");
  show((parseInt(location.hash.slice(1), 10) || 1) - 1);
})();
