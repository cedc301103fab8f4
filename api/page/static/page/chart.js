// Candles and volume on a canvas by Lightweight Charts (static/vendor), loaded with the first chart.

import { colour, onTheme } from "./theme.js";
import { axisPrice, count, percent, price, usd } from "./format.js";
import { axisTime, opening } from "./times.js";

const LIBRARY = "../vendor/lightweight-charts/lightweight-charts.standalone.production.mjs";
const LOAD_OLDER_AT = 20;
const place = document.getElementById("chart");
const legend = document.getElementById("chart-legend");

// The library takes UTC, in which every candle has a distinct time even when clocks are set back.
// Only the labels are in the reader's time zone.
const inSeconds = (ms) => ms / 1_000;
const inMs = (seconds) => seconds * 1_000;
// The library's axes are made for prices near 1, so values are divided by a power of ten.
const MIN_MOVE = 1e-9;
const FLAT_SHARE = 0.01;
const LABEL_PX = 30;
const LABEL_LETTERS = 13;

export class Chart {
  #colours = {};
  #byTime = new Map();
  #pointed = null;
  #all = [];
  #length = 0;
  #unit = 1;
  #step = 1;

  /** `onOldest()` is called when the reader scrolls close to the oldest candle. */
  static async make(onOldest) {
    return new Chart(await import(LIBRARY), onOldest);
  }

  constructor(library, onOldest) {
    this.chart = library.createChart(place, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(document.body).fontFamily },
      timeScale: {
        timeVisible: true, secondsVisible: false, rightOffset: 3,
        tickMarkMaxCharacterLength: LABEL_LETTERS,
        tickMarkFormatter: (time, kind) => axisTime(inMs(time), kind, this.#length),
      },
      localization: {
        locale: "en-GB",
        timeFormatter: (time) => opening(inMs(time), this.#length),
      },
      crosshair: { mode: library.CrosshairMode.Normal },
      handleScroll: { vertTouchDrag: false },
    });
    this.candles = this.chart.addSeries(library.CandlestickSeries, {
      priceFormat: {
        type: "custom", minMove: MIN_MOVE,
        formatter: (value) => axisPrice(value * this.#unit, this.#step * this.#unit),
      },
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
      this.#drawLegend();
    });
    onTheme(() => this.#recolour());
    this.#recolour();
  }

  /** Whether the visible range is close to the oldest candle. */
  get nearOldest() {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    return range === null || range.from < LOAD_OLDER_AT;
  }

  /** Shows these candles of `length` ms; `fit` scrolls to the newest, otherwise the view stays. */
  set(all, length, fit) {
    this.#all = all;
    this.#length = length;
    this.#unit = unitOf(all);
    this.#byTime = new Map(all.map((each) => [inSeconds(each.open_time), each]));
    this.candles.setData(all.map((each) => this.#bar(each)));
    this.volume.setData(all.map((each) => this.#column(each)));
    if (fit && all.length) {
      this.chart.timeScale().setVisibleLogicalRange({ from: all.length - 90, to: all.length + 3 });
    }
    this.#drawLegend();
  }

  /** Draws the newest candles; none of them may be older than the last one drawn. */
  update(all) {
    const from = this.#all.at(-1)?.open_time ?? 0;
    this.#all = all;
    for (const each of all.filter((candle) => candle.open_time >= from)) {
      this.#byTime.set(inSeconds(each.open_time), each);
      this.candles.update(this.#bar(each));
      this.volume.update(this.#column(each));
    }
    this.#drawLegend();
  }

  // One outlier must not flatten all other candles: a wick extends the scale by at most the height
  // of the range of the bodies. The legend shows the whole wick.
  #scale(found) {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (found === null || range === null) return found;
    const seen = this.#all.slice(Math.max(0, Math.floor(range.from)), Math.ceil(range.to) + 1);
    if (!seen.length) return found;
    const ends = seen.flatMap(({ open_usd: open, close_usd: close }) => [open, close].map(Number));
    const [low, high] = [Math.min(...ends) / this.#unit, Math.max(...ends) / this.#unit];
    const reach = Math.max(high - low, high * 0.005);
    let minValue = Math.max(found.priceRange.minValue, low - reach);
    let maxValue = Math.min(found.priceRange.maxValue, high + reach);
    // A constant price has an empty range, which the axis cannot label.
    if (maxValue === minValue) {
      minValue -= maxValue * FLAT_SHARE;
      maxValue *= 1 + FLAT_SHARE;
    }
    this.#step = (maxValue - minValue) / Math.max(2, place.clientHeight / LABEL_PX);
    return { ...found, priceRange: { minValue, maxValue } };
  }

  #bar(candle) {
    return {
      time: inSeconds(candle.open_time),
      open: Number(candle.open_usd) / this.#unit,
      high: Number(candle.high_usd) / this.#unit,
      low: Number(candle.low_usd) / this.#unit,
      close: Number(candle.close_usd) / this.#unit,
    };
  }

  #column(candle) {
    const rose = Number(candle.close_usd) >= Number(candle.open_usd);
    return {
      time: inSeconds(candle.open_time),
      value: Number(candle.volume_usd),
      color: rose ? this.#colours.upFaint : this.#colours.downFaint,
    };
  }

  #drawLegend() {
    const candle = this.#byTime.get(this.#pointed) ?? this.#all.at(-1);
    if (candle === undefined) {
      legend.textContent = "";
      return;
    }
    const { open_usd: open, close_usd: close } = candle;
    const trades = `${count(candle.trades)} ${candle.trades === 1 ? "trade" : "trades"}`;
    const change = Number(open) ? (100 * (Number(close) - Number(open))) / Number(open) : null;
    legend.textContent =
      `${opening(candle.open_time, this.#length)}  O ${price(open)}  H ${price(candle.high_usd)}  ` +
      `L ${price(candle.low_usd)}  C ${price(close)}  ${percent(change)}  ` +
      `Volume ${usd(candle.volume_usd)}  ${trades}`;
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
    // A rising candle is hollow, so that colour is not the only difference from a falling one.
    this.candles.applyOptions({
      upColor: surface, borderUpColor: up, wickUpColor: up,
      downColor: down, borderDownColor: down, wickDownColor: down,
    });
    this.volume.setData(this.#all.map((each) => this.#column(each)));
  }
}

/** The largest power of ten that is not above the newest close other than 0. */
function unitOf(all) {
  const close = all.findLast((each) => Number(each.close_usd) > 0)?.close_usd;
  return close === undefined ? 1 : 10 ** Math.floor(Math.log10(Number(close)));
}
