"""`/api/tasks`: create, list, look, steer."""

from typing import Annotated, Any, Final

from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response import Response

from manager.errors import Invalid
from manager.ports import Store, TaskQuery
from manager.routes.access import Action, principal_of
from manager.routes.bodies import Body
from manager.routes.replies import Reply
from manager.routes.services import services
from manager.routes.traces import trace_id
from shared_types.api import AbortRequest, InputReceipt, InputRequest, TaskCreate, TaskPage, Why
from shared_types.hosts import canonical_agent
from shared_types.tasks import Task, TaskState

CREATE: Final = Body(TaskCreate)
ABORT: Final = Body(AbortRequest, is_optional=True)
INPUT: Final = Body(InputRequest)

FULL_ID: Final = len("task_") + 26
TaskRef = Annotated[str, "The task's id, or a beginning of it that only one task has."]


async def resolve(store: Store, ref: str) -> str:
    """The id meant by a reference. Raises NotFound, Conflict AMBIGUOUS_ID."""
    return ref if len(ref) == FULL_ID and ref.startswith("task_") else await store.find(ref)


@post(
    "/api/tasks",
    action=Action.TASK_CREATE,
    body=CREATE,
    repeats=True,
    operation_id="createTask",
    summary="Create a task",
    tags=["tasks"],
)
async def create_task(
    request: Request[Any, Any, Any],
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="The same key with the same body again answers 200 with the task of the first time.",
        ),
    ] = None,
) -> Response[Task]:
    """The task is stored before this is answered. 201 with the task; 200 for a repeat of an `Idempotency-Key`."""
    create = await CREATE.read(request)
    task, is_new = await services(request).tasks.submit(
        create,
        actor=principal_of(request.scope).id,
        idempotency_key=idempotency_key,
        trace_id=trace_id(request.scope),
    )
    return Reply(task, status=201 if is_new else 200, headers={"Location": f"/api/tasks/{task.id}"})


def _label(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Invalid("A label is looked for as name=value.", code="INVALID_PARAMETER", field="label")
    return name, value


@get("/api/tasks", action=Action.TASK_READ, operation_id="listTasks", summary="List tasks", tags=["tasks"])
async def list_tasks(
    request: Request[Any, Any, Any],
    status: FromQuery[list[TaskState] | None] = None,
    host: Annotated[str | None, QueryParameter(max_length=128, description="Id of the host it is or was on.")] = None,
    agent: Annotated[str | None, QueryParameter(max_length=64)] = None,
    session: Annotated[str | None, QueryParameter(max_length=128)] = None,
    label: Annotated[
        str | None,
        QueryParameter(
            max_length=500, description="name=value in the metadata.", schema_extra={"pattern": "^[^=]+=[^=]*$"}
        ),
    ] = None,
    text: Annotated[str | None, QueryParameter(max_length=500, description="A part of the prompt.")] = None,
    cursor: Annotated[str | None, QueryParameter(max_length=500, description="`nextCursor` of a page.")] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
) -> Response[TaskPage]:
    """Newest first. All filters given must hold; `status` may be given several times."""
    page = await services(request).store.tasks(
        TaskQuery(
            statuses=frozenset(status or ()),
            host_id=host,
            agent=canonical_agent(agent) if agent else None,
            session_id=session,
            label=_label(label),
            text=text,
            cursor=cursor,
            limit=limit,
        )
    )
    return Reply(TaskPage(items=page.items, next_cursor=page.next_cursor))


@get("/api/tasks/{task_id:str}", action=Action.TASK_READ, operation_id="getTask", summary="One task", tags=["tasks"])
async def get_task(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[Task]:
    """`task_id` may be a beginning that only one task has."""
    store = services(request).store
    return Reply(await store.task(await resolve(store, task_id)))


@post(
    "/api/tasks/{task_id:str}/abort",
    action=Action.TASK_STEER,
    body=ABORT,
    operation_id="abortTask",
    summary="Stop a task",
    status_code=202,
    tags=["tasks"],
)
async def abort_task(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[Task]:
    """The wish is stored and will be carried out; the task is final when its process tree is gone."""
    abort = await ABORT.read(request)
    s = services(request)
    task = await s.tasks.abort(
        await resolve(s.store, task_id), kill=abort.kill, reason=abort.reason, actor=principal_of(request.scope).name
    )
    return Reply(task, status=202)


@post(
    "/api/tasks/{task_id:str}/retry",
    action=Action.TASK_STEER,
    operation_id="retryTask",
    summary="Another attempt of an ended task",
    status_code=202,
    tags=["tasks"],
)
async def retry_task(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[Task]:
    """Puts a failed, timed out, aborted, lost or expired task into the queue again."""
    s = services(request)
    return Reply(await s.tasks.retry(await resolve(s.store, task_id), principal_of(request.scope).name), status=202)


@post(
    "/api/tasks/{task_id:str}/input",
    action=Action.TASK_STEER,
    body=INPUT,
    operation_id="sendInput",
    summary="Text for a running agent",
    status_code=202,
    tags=["tasks"],
)
async def send_input(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[InputReceipt]:
    """Stored before this is answered; the receipt says how far it came. The same `inputId` again changes nothing."""
    message = await INPUT.read(request)
    s = services(request)
    receipt = await s.tasks.input(
        await resolve(s.store, task_id), message.content, message.input_id, principal_of(request.scope).id
    )
    return Reply(receipt, status=202)


@get(
    "/api/tasks/{task_id:str}/why",
    action=Action.TASK_READ,
    operation_id="whyTask",
    summary="Why a task is where it is",
    tags=["tasks"],
)
async def why_task(request: Request[Any, Any, Any], task_id: FromPath[str]) -> Response[Why]:
    """One sentence, then each host with its conditions."""
    s = services(request)
    return Reply(await s.tasks.why(await resolve(s.store, task_id)))


ROUTES: Final = [create_task, list_tasks, get_task, abort_task, retry_task, send_input, why_task]
