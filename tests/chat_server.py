"""A scripted OpenAI-style chat server on loopback, for tests: it reads out answers and keeps what
it was asked."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`answers`: a text, a status code, a number of seconds to be silent, or a function of the
    prompt that gives one of these."""

    def __init__(self, answers):
        self.answers, self.asked, self.lock = list(answers), [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with outer.lock:
                    outer.asked.append(body)
                    answer = (
                        outer.answers.pop(0)
                        if len(outer.answers) > 1 or not callable(outer.answers[0])
                        else outer.answers[0]
                    )
                answer = answer(prompt) if callable(answer) else answer
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = "{}"
                status = answer if isinstance(answer, int) else 200
                content = json.dumps(
                    {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 0,
                        "model": body["model"],
                        "choices": [
                            {
                                "index": 0,
                                "finish_reason": "stop",
                                "message": {"role": "assistant", "content": answer},
                            }
                        ],
                        "usage": {
                            "prompt_tokens": 100,
                            "completion_tokens": 10,
                            "total_tokens": 110,
                        },
                    }
                    if status == 200
                    else {"error": {"message": "no"}}
                )
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Retry-After", "0")
                    self.end_headers()
                    self.wfile.write(content.encode())
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
