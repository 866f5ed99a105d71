// Pictures: each is fetched once, and kept for the moves to come. Gives why one isn't there; empty where it is.
const fetched_picture = (() => {
  "use strict";
  const MOST_KEPT = 300;
  const kept = new Map();
  const loaded = (image, url) => new Promise((done) => {
    image.onload = () => done(true);
    image.onerror = () => done(false);
    image.src = url;
  });
  const missing_for = async (image, url) => { // why there is no picture; empty where there is one
    if (await loaded(image, url)) return "";
    const answer = await fetch(url, { cache: "reload" }).catch(() => null);
    if (!answer) return "The server doesn't answer.";
    if (!answer.ok) return (await answer.text().catch(() => "")) || `The server answered ${answer.status}.`;
    return (await loaded(image, url)) ? "" : "The browser can't show the picture."; // it was away for a moment
  };
  const fetched = (url) => {
    if (!kept.has(url)) {
      if (kept.size > MOST_KEPT) kept.clear();
      const image = new Image();
      const ready = missing_for(image, url).then((why) => {
        if (why) kept.delete(url); // perhaps it can be read later
        return why;
      });
      kept.set(url, { image, ready });
    }
    return kept.get(url).ready;
  };
  return fetched;
})();
