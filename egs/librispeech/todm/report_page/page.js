// Draws the pictures in the page's colours, light or dark, and shows the net that is chosen. No data of its own.
(() => {
  "use strict";
  const plots = [...document.querySelectorAll(".plot")].map(box => ({box, figure: JSON.parse(box.nextElementSibling.textContent)}));
  const buttons = [...document.querySelectorAll("[data-net]")];
  const narrow = matchMedia("(max-width: 40rem)"), dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  function draw({box, figure}) {
    const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
    const data = figure.data.map(trace => {
      const own = colour(trace.meta.colour);
      return {...trace, line: {...trace.line, color: own}, marker: {...trace.marker, color: own, line: {color: colour("--card"), width: trace.marker?.size > 6 ? 1.5 : 0}},
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
      margin: narrow.matches ? {l: 44, r: 8, t: 8, b: 44} : {l: 56, r: 16, t: 12, b: 52}, autosize: true, uirevision: "kept", shapes,
      legend: {orientation: "h", x: 0, y: -0.22, yanchor: "top", font: {size: 12}, itemwidth: 30}, showlegend: true,
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
