// Follow what arrives: when the version changes, take the new page's content, keeping the reader's place.
"use strict";

async function follow() {
  const main = document.querySelector("main");
  try {
    const { version } = await (await fetch("/api/version")).json();
    if (version !== main.dataset.version) {
      const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
      main.replaceWith(page.querySelector("main"));
      document.querySelector("nav").replaceWith(page.querySelector("nav"));
    }
  } catch {
    // The sandbox is down; the next round may find it again.
  }
  setTimeout(follow, 2000);
}

setTimeout(follow, 2000);
