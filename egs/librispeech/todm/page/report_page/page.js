// Draws the pictures in the page's colours, light or dark, and shows the net that is chosen. No data of its own.
(() => {
  "use strict";
  const plots = [...document.querySelectorAll(".plot")].map(box => ({box, figure: JSON.parse(box.nextElementSibling.textContent), hidden: new Set()}));
  const buttons = [...document.querySelectorAll("[data-net]")];
  const narrow = matchMedia("(max-width: 40rem)"), dark = matchMedia("(prefers-color-scheme: dark)");
  const symbols = {circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", cross: "✚", star: "★"}, lines = {dash: "╍", dot: "┅", dashdot: "┅"};
  let chosen = null;

  // The legend: a button for every line, or group of lines, that shows and hides it.
  function keys({box, figure, hidden}) {
    const list = document.createElement("div");
    list.className = "keys";
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "Lines of the picture");
    const seen = new Map();
    for (const trace of figure.data) {
      if (seen.has(key(trace))) continue;
      if (trace.visible === "legendonly") hidden.add(key(trace));
      const button = document.createElement("button"), mark = document.createElement("span"), style = lines[trace.line?.dash] ?? "━";
      mark.textContent = trace.mode === "lines" ? style : trace.mode === "markers" ? symbols[trace.marker.symbol] : style + symbols[trace.marker.symbol] + style;
      mark.style.color = `var(${trace.meta.colour})`;
      mark.ariaHidden = "true";
      button.type = "button";
      button.append(mark, " " + trace.meta.name);
      button.setAttribute("aria-pressed", !hidden.has(key(trace)));
      button.addEventListener("click", () => {
        if (!hidden.delete(key(trace))) hidden.add(key(trace));
        button.setAttribute("aria-pressed", !hidden.has(key(trace)));
        draw(plots.find(plot => plot.box === box));
      });
      seen.set(key(trace), button);
    }
    list.append(...seen.values());
    if (seen.size > 1) box.after(list);
  }
  const key = trace => trace.legendgroup ?? trace.meta.name;

  function draw({box, figure, hidden}) {
    const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
    const data = figure.data.map(trace => {
      const own = colour(trace.meta.colour);
      return {...trace, visible: !hidden.has(key(trace)), line: {...trace.line, color: own}, marker: {...trace.marker, color: own, line: {color: colour("--card"), width: trace.marker?.size > 6 ? 1.5 : 0}},
        hoverlabel: {bgcolor: colour("--card"), bordercolor: own, font: {color: colour("--ink")}, namelength: -1, align: "left"}};
    });
    const axis = {color: colour("--muted"), gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule"), showgrid: true, automargin: true, ticks: ""};
    const {layout} = figure;
    const shapes = (layout.shapes ?? []).map(shape => ({...shape, line: {...shape.line, color: colour("--muted")}}));
    if (box.id === "plot-wer" && chosen !== null) {
      shapes.push({type: "line", x0: chosen, x1: chosen, yref: "paper", y0: 0, y1: 1, layer: "below", line: {color: colour("--muted"), width: 1, dash: "dot"}});
    }
    Plotly.react(box, data, {
      ...layout, xaxis: {...axis, ...layout.xaxis, title: {...layout.xaxis.title, standoff: 12}}, yaxis: {...axis, ...layout.yaxis, title: {...layout.yaxis.title, standoff: 12}},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {family: style.getPropertyValue("--sans"), size: 13, color: colour("--ink")},
      margin: narrow.matches ? {l: 44, r: 8, t: 8, b: 44} : {l: 56, r: 16, t: 12, b: 52}, autosize: true, uirevision: "kept", shapes, showlegend: false,
    }, {responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false});
    box.dataset.drawn = "yes";
  }

  function choose(number) {
    for (const button of buttons) {
      const on = button.dataset.net === String(number);
      button.setAttribute("aria-pressed", on);
      if (on) chosen = Number(button.dataset.size);
    }
    for (const article of document.querySelectorAll("[data-shows]")) article.hidden = article.dataset.shows !== String(number);
    for (const row of document.querySelectorAll("[data-row]")) row.classList.toggle("chosen", buttons.length > 1 && row.dataset.row === String(number));
    plots.filter(({box}) => box.id === "plot-wer").forEach(draw);
  }

  plots.forEach(keys);
  plots.forEach(draw);
  document.getElementById("plot-wer").on("plotly_click", event => choose(event.points[0].customdata[0]));
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.net));
  for (const row of document.querySelectorAll("[data-row]")) row.addEventListener("click", () => choose(row.dataset.row));
  choose(0);
  for (const query of [dark, narrow]) query.addEventListener("change", () => plots.forEach(draw));

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {  // pages of files may not write the clipboard everywhere
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
