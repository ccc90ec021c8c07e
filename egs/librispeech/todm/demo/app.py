"""A local page to try a supernet on: say something or drop a file, and move the slider over its
subnets.

  ./demo.sh exp/mini                      # then open the address that is printed, http://127.0.0.1:7860
  ./demo.sh exp/mini/export/0.36M         # one subnet alone
  ./demo.sh exp/mini-streaming            # also recognises while one speaks

Only this machine can open the page, unless --host says otherwise.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from utils.errors import UserError

LARGEST_FILE = "100mb"
KEPT_SECONDS = 600  # that an uploaded file stays

CSS = """
.todm-words { font-size: 1.25rem; line-height: 2.4rem; overflow-wrap: anywhere; }
.todm-word { display: inline-block; padding: 0 .2em; border-radius: .25em; line-height: 1.3rem;
  text-align: center; }
.todm-word small { display: block; font-size: .65rem; opacity: .65; }
.todm-none { opacity: .7; }
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of demo.sh."""
    parser = argparse.ArgumentParser(
        prog="demo.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        type=Path,
        help="an experiment (exp/NAME) or an exported subnet (exp/NAME/export/SUBNET)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0 lets others in (default: this machine alone)",
    )
    parser.add_argument(
        "--port", type=int, help="the port to listen on (default: the first free one from 7860)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser.parse_args(arguments)


def build(demo: Any) -> Any:
    """The page of a :class:`todm.demo.session.Demo`."""
    import gradio as gr

    from todm.demo.render import curve, size, speed, words_html
    from utils.audio import AudioError

    last = len(demo.entries) - 1

    def position(number: float) -> int:
        """The subnet at a place of the slider: who asks without the page may say any number."""
        return int(min(max(number, 0), last)) if number == number else last

    note = "The darker a word, the less sure the net is of it. Below each is its time in seconds."

    def chosen(number: float) -> tuple[str, Any]:
        entry = demo.entries[position(number)]
        return size(entry, demo.rows), curve(demo.entries, demo.rows, entry.name)

    def transcribe(path: str | None, number: float) -> tuple[str, str]:
        if not path:
            return "", "Record something or choose a file first."
        try:
            transcript, seconds = demo.transcribe(Path(path), position(number))
        except AudioError as error:
            return "", f"This file can not be read: {str(error).replace(path, Path(path).name)}"
        return words_html(transcript), speed(transcript, seconds)

    def listen(state: Any, heard: Any, number: float) -> tuple[Any, str, str]:
        if heard is None:
            return state, "", ""
        try:
            listening = state or demo.listen(position(number))
        except UserError as error:  # of a dual supernet, the slider is at a net that can not stream
            return None, "", f"Move the slider: {error}."
        try:
            transcript = listening.accept(*heard)
        except AudioError as error:
            return None, "", f"This can not be heard: {error}"
        return listening, words_html(transcript), speed(transcript, listening.seconds)

    def finish(state: Any) -> tuple[Any, str, str]:
        if state is None:
            return None, "", ""
        transcript = state.finish()
        return None, words_html(transcript), speed(transcript, state.seconds)

    with gr.Blocks(
        title="TODM", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            "# Train once, deploy many\nOne supernet is loaded; the slider takes its subnets."
        )
        with gr.Row():
            with gr.Column():
                slider = gr.Slider(
                    0,
                    max(last, 1),
                    value=last,
                    step=1,
                    label="subnet, from the smallest to the largest",
                    visible=last > 0,
                    elem_id="subnet",
                )
                facts = gr.Markdown(size(demo.entries[last], demo.rows), elem_id="facts")
                figure = gr.Plot(
                    curve(demo.entries, demo.rows, demo.entries[last].name),
                    show_label=False,
                    visible=bool(demo.rows),
                )
            with gr.Column():
                with gr.Tab("A recording"):
                    audio = gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="a file, or the microphone",
                        buttons=["download"],  # none that would share it
                        elem_id="audio",
                    )
                    button = gr.Button("Transcribe", variant="primary", elem_id="transcribe")
                    words = gr.HTML(elem_id="words")
                    timing = gr.Markdown(elem_id="timing")
                if demo.can_stream:
                    with gr.Tab("While you speak"):
                        state = gr.State(None)
                        stream = gr.Audio(
                            sources=["microphone"],
                            streaming=True,
                            label="the microphone",
                            buttons=[],
                            elem_id="microphone",
                        )
                        heard = gr.HTML(elem_id="heard")
                        pace = gr.Markdown(elem_id="pace")
                        stream.start_recording(lambda: None, outputs=state)
                        stream.stream(
                            listen,
                            [state, stream, slider],
                            [state, heard, pace],
                            stream_every=0.32,
                            concurrency_limit=4,
                        )
                        stream.stop_recording(finish, state, [state, heard, pace])
                gr.Markdown(note)
        slider.change(chosen, slider, [facts, figure], show_progress="hidden")
        for trigger in (button.click, audio.upload, audio.stop_recording, slider.release):
            trigger(transcribe, [audio, slider], [words, timing], show_progress="minimal")
    return page


def main() -> None:
    """Serves the page until Ctrl-C."""
    arguments = parse_arguments()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from todm.demo.session import Demo

    try:
        demo = Demo.load(arguments.model)
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    serve(demo, arguments)


def serve(demo: Any, arguments: argparse.Namespace, wait: bool = True) -> Any:
    """Opens the port, and says where the page is; returns the page once it no longer serves, or
    with ``wait=False`` at once."""
    import gradio as gr

    page = build(demo)
    try:
        _, address, _ = page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            inbrowser=arguments.open,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST_FILE,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
        )
    except OSError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"The page is at {address} (Ctrl-C ends it)", flush=True)
    if arguments.host not in ("127.0.0.1", "localhost", "::1"):
        print("Everyone who reaches this machine can open it, and upload files", flush=True)
    if wait:
        page.block_thread()
    return page


if __name__ == "__main__":
    main()
