'use strict';

// The conversation as the API takes it; the page is drawn from it.
let messages = JSON.parse(sessionStorage.getItem('messages') || '[]');
let session = sessionStorage.getItem('session') || newSession();  // its name at the server
let model = '';
let running = null;  // AbortController of the answer that streams

const $ = (id) => document.getElementById(id);

// Not crypto.randomUUID, which a page that came over plain HTTP from another machine does not have.
function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function mebibytes(bytes) { return (bytes / 1048576).toFixed(bytes < 10485760 ? 2 : 1); }

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Inline Markdown: code and bold. Model text only ever becomes text nodes.
function appendInline(parent, text) {
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`[^`\n]+`$/.test(part)) parent.append(element('code', '', part.slice(1, -1)));
    else if (/^\*\*[^*\n]+\*\*$/.test(part)) parent.append(element('strong', '', part.slice(2, -2)));
    else if (part) parent.append(part);
  }
}

function codeBlock(code) {
  const box = element('div', 'code');
  const pre = element('pre');
  pre.append(element('code', '', code));
  const copy = element('button', '', 'Copy');
  copy.type = 'button';
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = 'Copied';
  });
  box.append(pre, copy);
  return box;
}

function appendParagraphs(body, text) {
  for (const paragraph of text.split(/\n{2,}/)) {
    const lines = paragraph.split('\n').filter((line) => line.trim());
    if (!lines.length) continue;
    const bullets = lines.every((line) => /^\s*[-*] /.test(line));
    const numbers = lines.every((line) => /^\s*\d+[.)] /.test(line));
    if (bullets || numbers) {
      const list = element(bullets ? 'ul' : 'ol');
      if (numbers) list.start = parseInt(lines[0].trim(), 10);
      for (const line of lines) {
        const item = element('li');
        appendInline(item, line.replace(/^\s*([-*]|\d+[.)]) /, ''));
        list.append(item);
      }
      body.append(list);
    } else {
      const block = element('p');
      appendInline(block, lines.join('\n'));
      body.append(block);
    }
  }
}

function drawMarkdown(body, text) {
  body.replaceChildren();
  text.split(/```[^\n]*\n?/).forEach((part, i) => {
    if (i % 2 === 1) body.append(codeBlock(part.replace(/\n$/, '')));
    else appendParagraphs(body, part);
  });
}

function addMessage(role, text) {
  $('welcome').hidden = true;
  const message = element('article', `message ${role}`);
  const body = element('div', 'body');
  if (role === 'assistant') drawMarkdown(body, text);
  else body.textContent = text;
  message.append(body);
  $('messages').append(message);
  return message;
}

// Follows the answer unless the reader has scrolled up.
function keepEndInView(change) {
  const view = $('messages');
  const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 60;
  change();
  if (atEnd) view.scrollTop = view.scrollHeight;
}

function drawAll() {
  for (const old of document.querySelectorAll('.message')) old.remove();
  $('welcome').hidden = messages.length > 0;
  for (const {role, content} of messages) addMessage(role, content);
}

function setRunning(controller) {
  running = controller;
  $('send').hidden = controller !== null;
  $('stop').hidden = controller === null;
  savedSessions.update();
}

function keepMessages() {
  sessionStorage.setItem('messages', JSON.stringify(messages));
  sessionStorage.setItem('session', session);
}

// Another conversation takes the page.
function openConversation(id, itsMessages) {
  if (running) running.abort();
  session = id;
  messages = itsMessages;
  keepMessages();
  kvStrip.clear();
  drawAll();
  $('messages').scrollTop = $('messages').scrollHeight;
  savedSessions.update();
  $('prompt').focus();
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, '');
      if (data === '[DONE]') return;
      if (block.startsWith('data: ')) yield JSON.parse(data);
    }
  }
}

function requestBody() {
  const system = $('system').value.trim();
  return JSON.stringify({
    model,
    session_id: session,
    messages: system ? [{role: 'system', content: system}, ...messages] : messages,
    temperature: Number($('temperature').value),
    max_tokens: Math.max(1, Number($('max-tokens').value) || 512),
    stream: true,
    stream_options: {include_usage: true},
  });
}

function describe(usage, start, first, end) {
  if (!usage || !first) return '';
  const rate = (usage.completion_tokens - 1) / Math.max((end - first) / 1000, 0.001);
  const {cached_tokens: cached, restored_tokens: restored} = usage.prompt_tokens_details || {};
  const prompt = `${usage.prompt_tokens} prompt tokens` +
      (cached ? ` (${cached} cached${restored ? `, ${restored} of them restored` : ''})` : '');
  return `${rate.toFixed(1)} tokens/s · first token after ${Math.round(first - start)} ms · ` +
      `${usage.completion_tokens} tokens, ${prompt}`;
}

async function answer() {
  const conversation = messages;  // another one after New chat
  const message = addMessage('assistant', '');
  message.classList.add('waiting');
  const body = message.querySelector('.body');
  const meta = element('div', 'meta');
  message.append(meta);
  $('messages').scrollTop = $('messages').scrollHeight;  // whoever asks wants to see the answer
  const controller = new AbortController();
  setRunning(controller);
  const start = performance.now();
  let first = 0;
  let text = '';
  let usage = null;
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST', headers: {'Content-Type': 'application/json'},
      body: requestBody(), signal: controller.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    kvStrip.start(response.headers.get('x-response-id'));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage || usage;
      const delta = event.choices[0] && event.choices[0].delta.content;
      if (!delta) continue;
      first = first || performance.now();
      text += delta;
      keepEndInView(() => drawMarkdown(body, text));
    }
    if (conversation === messages) kvStrip.finish(usage);
    keepEndInView(() => { meta.textContent = describe(usage, start, first, performance.now()); });
  } catch (error) {
    meta.textContent = error.name === 'AbortError' ? 'Stopped.' : `Error: ${error.message}`;
    meta.classList.toggle('error', error.name !== 'AbortError');
  }
  message.classList.remove('waiting');
  kvStrip.stop();
  if (conversation === messages && text) messages.push({role: 'assistant', content: text});
  setRunning(null);
  if (conversation !== messages) return;
  keepMessages();
  $('prompt').focus();
}

function resizePrompt() {
  $('prompt').style.height = 'auto';
  $('prompt').style.height = `${$('prompt').scrollHeight}px`;
}

function send() {
  const text = $('prompt').value.trim();
  if (!text || running) return;
  $('prompt').value = '';
  resizePrompt();
  savedSessions.notice('');
  messages.push({role: 'user', content: text});
  addMessage('user', text);
  answer();
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$('prompt').addEventListener('input', resizePrompt);
$('stop').addEventListener('click', () => running && running.abort());
$('new-chat').addEventListener('click', () => {
  savedSessions.notice('');
  openConversation(newSession(), []);
});
$('temperature').addEventListener('input', () => {
  $('temperature-value').textContent = $('temperature').value;
});

async function start() {
  drawAll();
  savedSessions.start();
  try {
    const list = await (await fetch('/v1/models')).json();
    model = list.data[0].id;
    $('model').textContent = model;
  } catch {
    $('model').textContent = 'server not reachable';
  }
  $('prompt').focus();
}
start();
