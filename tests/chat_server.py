"""A scripted OpenAI-style chat server on loopback, for tests: it reads out answers and keeps what
it was asked."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`answers`: a list, or one function of the whole request.

    An answer is a text, a whole body as bytes, a status code, one with the message of its error, a
    number of seconds to be silent, or a function of the prompt that gives one of these.
    """

    def __init__(self, answers):
        self.reply = answers if callable(answers) else None
        self.answers = [] if callable(answers) else list(answers)
        self.asked, self.lock = [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with outer.lock:
                    outer.asked.append(body)
                    answer = outer.reply(body) if outer.reply else outer.answers[0]
                    if len(outer.answers) > 1 or not (outer.reply or callable(answer)):
                        outer.answers.pop(0)
                answer = answer(prompt) if callable(answer) else answer
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = "{}"
                answer = (answer, "no") if isinstance(answer, int) else answer
                status, said = answer if isinstance(answer, tuple) else (200, answer)
                content = (
                    said
                    if isinstance(said, bytes)
                    else json.dumps(
                        {
                            "id": "x",
                            "object": "chat.completion",
                            "created": 0,
                            "model": body["model"],
                            "choices": [
                                {
                                    "index": 0,
                                    "finish_reason": "stop",
                                    "message": {"role": "assistant", "content": said},
                                }
                            ],
                            "usage": {
                                "prompt_tokens": 100,
                                "completion_tokens": 10,
                                "total_tokens": 110,
                            },
                        }
                        if status == 200
                        else {"error": {"message": said}}
                    )
                )
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Retry-After", "0")
                    self.end_headers()
                    self.wfile.write(content if isinstance(content, bytes) else content.encode())
                except OSError:
                    pass  # the client gave up, as it was to

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
