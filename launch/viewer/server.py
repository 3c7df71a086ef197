"""The viewer page and its files, served to this machine alone."""

from collections.abc import Sequence
import socket
import sys
import urllib.parse
import webbrowser

from . import page


def make_app(paths: Sequence[str], mode: str = ''):
  """The site: `/` leads to the page, `/files/K/NAME` are the files.

  Args:
    paths: a .pgsvc file, and perhaps what to compare it with.
    mode: how the page shows them at first, such as 'split'.

  Returns:
    A Starlette application. It answers ranges.
  """
  from starlette import applications
  from starlette import middleware
  from starlette import responses
  from starlette import routing
  from starlette import staticfiles
  from starlette.middleware import trustedhost

  query = {
      key: f'files/{k}/{urllib.parse.quote(name)}'
      for k, (key, name) in enumerate(
          zip(('file', 'original'), page.names_of(paths))
      )
  }
  if mode:
    query['mode'] = mode
  start = f'/viewer.html?{urllib.parse.urlencode(query)}'

  async def send(request):
    k = request.path_params['k']
    if k >= len(paths):
      return responses.PlainTextResponse('no such file', status_code=404)
    name, data = page.shown_bytes(paths[k])
    if name.endswith('.pgsvc'):
      # From disk, in ranges.
      return responses.FileResponse(
          paths[k], media_type='application/octet-stream'
      )
    return responses.Response(data)

  async def lead(request):
    return responses.RedirectResponse(start)

  return applications.Starlette(
      routes=[
          routing.Route('/', lead),
          routing.Route('/files/{k:int}/{name}', send),
          routing.Mount('/', staticfiles.StaticFiles(directory=page.WEB)),
      ],
      # Pages of other sites must not read files by a name that leads here.
      middleware=[
          middleware.Middleware(
              trustedhost.TrustedHostMiddleware,
              allowed_hosts=['127.0.0.1', 'localhost'],
          )
      ],
  )


def serve(app, port: int, opens: bool) -> None:
  """Serves until the user ends it by Ctrl-C.

  Args:
    app: the site.
    port: to listen at; 0: any that is free.
    opens: open a browser.

  Raises:
    OSError: the port is taken.
  """
  import uvicorn

  listener = socket.socket()
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listener.bind(('127.0.0.1', port))
  except OSError as error:
    raise OSError(f'port {port} cannot be used: {error.strerror}') from error
  url = f'http://127.0.0.1:{listener.getsockname()[1]}/'
  # The connection waits until the server takes it.
  listener.listen()
  print(url, flush=True)
  print('Ctrl-C ends it', file=sys.stderr)
  if opens:
    webbrowser.open(url)
  config = uvicorn.Config(
      app, log_level='warning', lifespan='off', timeout_graceful_shutdown=1
  )
  try:
    uvicorn.Server(config).run(sockets=[listener])
  except KeyboardInterrupt:
    pass  # That is how it ends.
