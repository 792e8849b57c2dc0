"use strict";
// The browser of rollouts. Text comes from the data block and reaches the page as text nodes alone.
(() => {
  const source = document.getElementById("rollout-data");
  const browser = document.getElementById("browser");
  if (!source || !browser) return;
  const { groups, scale } = JSON.parse(source.textContent);
  const list = document.getElementById("group-list");
  const panel = document.getElementById("group");
  const filters = document.getElementById("filters");
  const tip = document.getElementById("tip");
  const steps = 4;
  const highest = Math.max(1e-9, ...groups.flatMap((group) => group.rollouts.map((rollout) => rollout.reward ?? 0)));
  let shown = [];
  let chosen = null;

  const signed = (value, digits = 3) => {
    const text = Math.abs(value).toFixed(digits);
    if (!Number(text)) return text;
    return (value < 0 ? "−" : "+") + text;
  };
  const plain = (value, digits = 3) => {
    if (value === null) return "–";
    const text = value.toFixed(digits);
    return Number(text) ? text.replace("-", "−") : text.replace("-", "");
  };

  function element(name, className, content) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  function level(share) {
    if (share === null || !scale) return 0;
    const step = Math.min(steps, Math.ceil((Math.abs(share) / scale) * steps - 0.5));
    return step === 0 ? 0 : Math.sign(share) * step;
  }

  function segment(piece) {
    const [text, share, advantage] = piece;
    const made = element("span", "segment");
    const words = element("bdi", "", text);
    made.append(words);
    made.dataset.level = level(share);
    made.tabIndex = 0;
    if (share === null) {
      made.setAttribute("aria-label", `${text}: no share`);
    } else {
      if (made.dataset.level !== "0") made.classList.add(share > 0 ? "earned" : "cost");
      made.append(element("sup", "", signed(share, 2)));
      if (text.length <= 24) made.classList.add("short"); // the number stays on its word's line
      made.setAttribute("aria-label", `${text}: share ${signed(share)}, advantage ${signed(advantage ?? 0)}`);
    }
    made.addEventListener("pointerenter", () => tell(made, share, advantage));
    made.addEventListener("focus", () => tell(made, share, advantage));
    made.addEventListener("pointerleave", hush);
    made.addEventListener("blur", hush);
    return made;
  }

  function tell(where, share, advantage) {
    const rows = share === null ? [["no share", "degenerate group or not attributed"]] : [["share of reward", signed(share, 4)], ["advantage of its tokens", advantage === null ? "–" : signed(advantage, 4)]];
    const found = element("dl");
    for (const [name, value] of rows) found.append(element("dt", "", name), element("dd", "", value));
    tip.replaceChildren(found);
    tip.hidden = false;
    const box = where.getClientRects()[0];
    const left = Math.min(Math.max(8, box.left), window.innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  }

  function hush() {
    tip.hidden = true;
  }

  function rewards(group) {
    return group.rollouts.map((rollout) => rollout.reward).filter((value) => value !== null);
  }

  function strip(group, top) {
    const made = element("span", "strip");
    for (const value of rewards(group)) {
      const bar = element("i");
      bar.style.height = `${Math.max(4, (100 * Math.max(value, 0)) / top)}%`;
      made.append(bar);
    }
    return made;
  }

  function draw(group) {
    panel.replaceChildren();
    if (!group) {
      panel.append(element("p", "empty", "No rollout group matches."));
      return;
    }
    const title = element("h3");
    title.append(element("bdi", "", group.query || "(empty query)"));
    panel.append(title);
    const line = [`iteration ${group.iteration}`, `prompt ${group.prompt}`];
    if (group.degenerate) line.push("degenerate group: all rewards equal, nothing learned here");
    panel.append(element("p", "history", line.join(" · ")));
    if (group.history.length) {
      const past = element("p", "history", "bought before: ");
      group.history.forEach((name, index) => past.append(index ? "; " : "", element("bdi", "", name)));
      panel.append(past);
    }
    for (const rollout of group.rollouts) {
      const row = element("article", "rollout");
      const score = element("div", "score");
      score.append(element("b", "", plain(rollout.reward)));
      const meter = element("div", "meter");
      const fill = element("i");
      fill.style.width = `${(100 * Math.max(rollout.reward ?? 0, 0)) / highest}%`;
      meter.append(fill);
      score.append(meter);
      const text = element("div", "text");
      text.dir = "auto";
      for (const piece of rollout.pieces) text.append(piece.length > 1 ? segment(piece) : outside(piece[0]));
      if (!rollout.pieces.length) text.append(element("span", "outside", "(empty completion)"));
      const facts = [`sample ${rollout.sample}`, `${rollout.tokens} tokens`];
      if (rollout.parts) for (const [name, value] of Object.entries(rollout.parts)) if (value || name === "retrieval") facts.push(`${name} ${plain(value)}`);
      if (rollout.finish !== "stop") facts.push("cut off at the cap");
      if (!rollout.tagged) facts.push("no answer tags");
      row.append(score, text);
      if (rollout.interactions.length) row.append(together(rollout.interactions));
      row.append(element("div", "facts-line", facts.join(" · ")));
      panel.append(row);
    }
    panel.scrollTop = 0;
  }

  function together(interactions) {
    const made = element("ul", "interactions");
    for (const [first, last, begins, ends, dividend] of interactions) {
      const line = element("li");
      const between = last - first - 1;
      line.append(element("b", dividend > 0 ? "earned" : "cost", signed(dividend)), " ");
      line.append(element("bdi", "", begins), between ? ` + ${between} between + ` : " + ", element("bdi", "", ends));
      const than = between ? "than its smaller windows tell" : "than apart";
      line.append(element("small", "", ` ${dividend > 0 ? "more" : "less"} together ${than}`));
      made.append(line);
    }
    return made;
  }

  function outside(text) {
    return element("span", "outside", text);
  }

  function choose(group) {
    chosen = group;
    for (const button of list.children) button.setAttribute("aria-selected", String(button.group === group));
    hush();
    draw(group);
  }

  function matches(group, iteration, text) {
    if (iteration && String(group.iteration) !== iteration) return false;
    if (!text) return true;
    const haystack = [group.query, group.prompt, ...group.history, ...group.rollouts.map((rollout) => rollout.pieces.map((piece) => piece[0]).join(""))];
    return haystack.some((part) => part.toLowerCase().includes(text));
  }

  function filter() {
    const iteration = filters.elements.iteration.value;
    const text = filters.elements.text.value.trim().toLowerCase();
    browser.classList.toggle("numbers", filters.elements.numbers.checked);
    shown = groups.filter((group) => matches(group, iteration, text));
    list.replaceChildren();
    for (const group of shown) {
      const button = element("button");
      button.type = "button";
      button.group = group;
      button.setAttribute("role", "option");
      const name = element("b");
      name.append(element("bdi", "", group.query || group.prompt));
      const meta = element("span", "meta");
      const values = rewards(group);
      const mean = values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
      meta.append(element("span", "", `iteration ${group.iteration}, mean ${plain(mean, 2)}`), strip(group, highest));
      button.append(name, meta);
      button.addEventListener("click", () => choose(group));
      list.append(button);
    }
    if (!shown.length) list.append(element("p", "empty", "No match."));
    choose(shown.includes(chosen) ? chosen : shown[0]);
  }

  list.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!move || !shown.length) return;
    event.preventDefault();
    const next = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen) + move))];
    choose(next);
    [...list.children].find((button) => button.group === next).focus();
  });
  // Begin where there is most to see: the group of the last iteration whose rewards differ most.
  const spread = (group) => {
    const values = rewards(group);
    const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
    return values.reduce((a, b) => a + (b - mean) ** 2, 0);
  };
  const last = Math.max(...groups.map((group) => group.iteration));
  const latest = groups.filter((group) => group.iteration === last);
  const widest = (some) => some.reduce((best, group) => (spread(group) > spread(best) ? group : best), some[0]);
  chosen = widest(latest);
  if (spread(chosen) === 0) chosen = widest(groups);
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  panel.addEventListener("scroll", hush);
  filter();
  const start = [...list.children].find((button) => button.group === chosen);
  if (start) list.scrollTop = start.offsetTop - list.offsetTop;
})();
