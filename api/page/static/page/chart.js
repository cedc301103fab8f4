// Candles and volume on a canvas, by Lightweight Charts (static/vendor); loaded with the first chart.

import { colour, onTheme } from "./theme.js";
import { count, moment, percent, price, usd } from "./format.js";

const LIBRARY = "../vendor/lightweight-charts/lightweight-charts.standalone.production.mjs";
const LOAD_OLDER_AT = 20;
const place = document.getElementById("chart");
const legend = document.getElementById("chart-legend");

const inSeconds = (ms) => ms / 1_000;
// The library shows UTC; the reader's own clock is wanted.
const local = (ms) => ms - new Date(ms).getTimezoneOffset() * 60_000;

export class Chart {
  #colours = {};
  #byTime = new Map();
  #pointed = null;
  #all = [];

  /** `onOldest()` is called when the reader comes near the oldest candle. */
  static async make(onOldest) {
    return new Chart(await import(LIBRARY), onOldest);
  }

  constructor(library, onOldest) {
    this.chart = library.createChart(place, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(document.body).fontFamily },
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 3 },
      localization: { locale: "en-GB" },
      crosshair: { mode: library.CrosshairMode.Normal },
      handleScroll: { vertTouchDrag: false },
    });
    this.candles = this.chart.addSeries(library.CandlestickSeries, {
      priceFormat: { type: "custom", formatter: price, minMove: 1e-12 },
      autoscaleInfoProvider: (found) => this.#scale(found()),
    });
    this.volume = this.chart.addSeries(library.HistogramSeries, {
      priceFormat: { type: "custom", formatter: usd, minMove: 0.01 },
      priceScaleId: "",
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.candles.priceScale().applyOptions({ scaleMargins: { top: 0.08, bottom: 0.26 } });
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.8, bottom: 0 } });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range !== null && range.from < LOAD_OLDER_AT) onOldest();
    });
    this.chart.subscribeCrosshairMove(({ time }) => {
      this.#pointed = time ?? null;
      this.#tell();
    });
    onTheme(() => this.#recolour());
    this.#recolour();
  }

  /** These candles; `fit` shows the newest of them, else the reader's view stays. */
  set(all, fit) {
    this.#all = all;
    this.#byTime = new Map(all.map((each) => [inSeconds(local(each.open_time)), each]));
    this.candles.setData(all.map((each) => this.#bar(each)));
    this.volume.setData(all.map((each) => this.#column(each)));
    if (fit && all.length) {
      this.chart.timeScale().setVisibleLogicalRange({ from: all.length - 90, to: all.length + 3 });
    }
    this.#tell();
  }

  /** The newest candles, of which none lies before the last one drawn. */
  update(all) {
    const from = this.#all.at(-1)?.open_time ?? 0;
    this.#all = all;
    for (const each of all.filter((candle) => candle.open_time >= from)) {
      this.#byTime.set(inSeconds(local(each.open_time)), each);
      this.candles.update(this.#bar(each));
      this.volume.update(this.#column(each));
    }
    this.#tell();
  }

  // One odd trade must not press all others flat: wicks count for the scale only as far as the
  // bodies reach, once over. The legend tells the whole wick.
  #scale(found) {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (found === null || range === null) return found;
    const seen = this.#all.slice(Math.max(0, Math.floor(range.from)), Math.ceil(range.to) + 1);
    if (!seen.length) return found;
    const ends = seen.flatMap((each) => [Number(each.open_usd), Number(each.close_usd)]);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const reach = Math.max(high - low, high * 0.005);
    const { minValue, maxValue } = found.priceRange;
    return {
      ...found,
      priceRange: {
        minValue: Math.max(minValue, low - reach),
        maxValue: Math.min(maxValue, high + reach),
      },
    };
  }

  #bar(candle) {
    return {
      time: inSeconds(local(candle.open_time)),
      open: Number(candle.open_usd),
      high: Number(candle.high_usd),
      low: Number(candle.low_usd),
      close: Number(candle.close_usd),
    };
  }

  #column(candle) {
    const rose = Number(candle.close_usd) >= Number(candle.open_usd);
    return {
      time: inSeconds(local(candle.open_time)),
      value: Number(candle.volume_usd),
      color: rose ? this.#colours.upFaint : this.#colours.downFaint,
    };
  }

  #tell() {
    const candle = this.#byTime.get(this.#pointed) ?? this.#all.at(-1);
    if (candle === undefined) {
      legend.textContent = "";
      return;
    }
    const { open_usd: open, close_usd: close } = candle;
    const change = Number(open) ? (100 * (Number(close) - Number(open))) / Number(open) : null;
    legend.textContent =
      `${moment(candle.open_time)}  O ${price(open)}  H ${price(candle.high_usd)}  ` +
      `L ${price(candle.low_usd)}  C ${price(close)}  ${percent(change)}  ` +
      `Volume ${usd(candle.volume_usd)}  ${count(candle.trades)} trades`;
  }

  #recolour() {
    const names = ["text-2", "line", "surface", "up", "down", "up-faint", "down-faint"];
    const [text, line, surface, up, down, upFaint, downFaint] = names.map(colour);
    this.#colours = { upFaint, downFaint };
    this.chart.applyOptions({
      layout: { background: { color: surface }, textColor: text },
      grid: { vertLines: { color: line }, horzLines: { color: line } },
      rightPriceScale: { borderColor: line },
      timeScale: { borderColor: line },
    });
    // A candle that rose is hollow: its colour is not all that tells it from one that fell.
    this.candles.applyOptions({
      upColor: surface, borderUpColor: up, wickUpColor: up,
      downColor: down, borderDownColor: down, wickDownColor: down,
    });
    this.volume.setData(this.#all.map((each) => this.#column(each)));
  }
}
