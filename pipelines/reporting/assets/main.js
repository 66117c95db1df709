// Start: the numbers first, then the list; a live page looks again while the run goes on.

let summary = null, index = null, haystack = [], page = {};
const source = document.getElementById('summary') ? embedded : served;
const LOOK_AGAIN_MS = 4000;

function takeIndex(found) {
  index = found;
  haystack = index.prompt.map((text) => text.toLowerCase());
}

async function start() {
  try {
    page = source.live ? {} : await source.read('page');
    summary = await source.read('summary');
    takeIndex(await source.read('index'));
    buildBrowser();
    story(summary);
    if (location.hash.includes('=')) recall();
    else refresh();
    document.body.dataset.ready = 'yes';
    if (source.live) setTimeout(follow, LOOK_AGAIN_MS);
  } catch (error) {
    document.getElementById('main').replaceChildren(el('p', { cls: 'quiet' }, `This run cannot be shown: ${error.message}`));
    throw error;
  }
}

async function follow() {
  try {
    const news = await source.read('summary');
    if (news) {
      summary = news;
      const list = await source.read('index');
      if (list) {
        kept.clear();
        takeIndex(list);
        const { scrollTop } = ui ? ui.list : { scrollTop: 0 };
        if (!ui || list.id.length) buildBrowserAgain(scrollTop);
      }
      const y = window.scrollY;
      story(summary);
      window.scrollTo({ top: y, behavior: 'instant' });
    }
    document.body.dataset.lost = '';
  } catch (error) {
    document.body.dataset.lost = error.message;  // the run may be over, or its endpoint may start again
  }
  setTimeout(follow, LOOK_AGAIN_MS);
}

function buildBrowserAgain(scrollTop) {
  const typed = ui ? ui.search.value : '', detail = ui ? [...ui.detail.childNodes] : [], focused = ui && document.activeElement === ui.search;
  buildBrowser();
  if (!ui) return;
  ui.search.value = typed; ui.iteration.value = state.iteration; ui.only.value = state.only; ui.sort.value = state.sort; ui.deep.checked = state.deep;
  ui.detail.replaceChildren(...detail);
  ui.panes.classList.toggle('open', Boolean(state.open));
  refresh(true);
  ui.list.scrollTop = scrollTop;
  if (focused) ui.search.focus();
}

window.addEventListener('hashchange', recall);
start();
