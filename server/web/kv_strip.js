'use strict';

// The conversation's pages in the KV cache, oldest first, coloured by temperature. Live from /v1/kv
// while an answer streams; the numbers at the end are the answer's own usage.
const kvStrip = (() => {
  const kPollMs = 500;
  const kTiers = ['hot', 'warm', 'cold', 'archive'];  // a page's letter is its tier's first
  let pageTokens = 64;
  let pageBytes = null;  // by tier, once the server has told
  let seen = '';         // pages of the sequence that runs, as last seen
  let watching = null;   // AbortController

  function mebibytes(bytes) { return (bytes / 1048576).toFixed(bytes < 10485760 ? 2 : 1); }

  // How much smaller than with every page hot. Empty when the server has not told what a page takes.
  function savings(tokens) {
    if (!pageBytes) return '';
    let bytes = 0;
    let pages = 0;
    for (const tier of kTiers) {
      const count = Math.ceil((tokens[tier] || 0) / pageTokens);
      pages += count;
      bytes += count * pageBytes[tier];
    }
    const hot = pages * pageBytes.hot;
    if (bytes === hot) return `${mebibytes(hot)} MiB, all hot`;
    return `${(hot / bytes).toFixed(1)}× smaller than all hot: ` +
        `${mebibytes(bytes)} instead of ${mebibytes(hot)} MiB`;
  }

  function draw(pages, tokens) {
    const cells = [...pages].map((letter) => element('i', kTiers.find((tier) => tier[0] === letter)));
    const counts = kTiers.map((tier) => `${tokens[tier] || 0} ${tier}`);
    $('kv-pages').setAttribute('aria-label', `${pages.length} pages; tokens: ${counts.join(', ')}`);
    $('kv-legend').replaceChildren(...kTiers.map((tier) => {
      const entry = element('span', 'tier');
      entry.append(element('i', tier), `${tier} ${tokens[tier] || 0}`);
      return entry;
    }));
    keepEndInView(() => {  // the strip takes its room from the messages
      $('kv-pages').replaceChildren(...cells);
      $('kv-savings').textContent = savings(tokens);
      $('kv').hidden = pages.length === 0;
    });
  }

  function tokensByTier(pages, numTokens) {
    const tokens = {};
    [...pages].forEach((letter, i) => {
      const tier = kTiers.find((name) => name[0] === letter);
      const left = Math.min(Math.max(numTokens - i * pageTokens, 0), pageTokens);
      tokens[tier] = (tokens[tier] || 0) + left;
    });
    return tokens;
  }

  async function look(id, signal) {
    const kv = await (await fetch('/v1/kv', {signal})).json();
    pageTokens = kv.page_tokens;
    pageBytes = Object.fromEntries(kTiers.map((tier) => [tier, kv.tiers[tier].page_bytes]));
    const mine = kv.sequences.find((sequence) => sequence.id === id);
    if (!mine || signal.aborted) return;
    seen = mine.pages;
    draw(seen, tokensByTier(seen, mine.tokens));
  }

  function stop() {
    if (watching) watching.abort();
    watching = null;
  }

  return {
    stop,

    // Follows the sequence of the response with this id, until stop or finish.
    async start(id) {
      stop();
      seen = '';
      if (!id) return;
      const {signal} = watching = new AbortController();
      while (!signal.aborted) {
        try {
          await look(id, signal);
        } catch {
          // Stopped, or the server does not answer: the answer itself will tell.
        }
        await new Promise((resolve) => setTimeout(resolve, kPollMs));
      }
    },

    // What the answer's usage says. Where each page is, is what was seen last; what nobody looked at
    // (an answer of less than one look) is drawn in the order in which pages usually cool.
    finish(usage) {
      stop();
      const tokens = usage && usage.kv_tokens;
      if (!tokens) return;
      const letters = ['warm', 'archive', 'cold', 'hot'].map(
          (tier) => tier[0].repeat(Math.ceil((tokens[tier] || 0) / pageTokens)));
      const all = letters.join('');
      draw(seen ? seen.padEnd(all.length, 'h') : all, tokens);
    },

    clear() {
      stop();
      seen = '';
      draw('', {});
    },
  };
})();
