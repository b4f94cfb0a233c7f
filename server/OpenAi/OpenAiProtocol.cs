using System.Diagnostics;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Http;
using Native.Server.Serving;
using Native.Server.Tenancy;

namespace Native.Server.OpenAi;

/// <summary>OpenAI's API under <c>/v1</c>: completions, chats and models.</summary>
internal sealed class OpenAiProtocol : IProtocol
{
    private const string Prefix = "/v1";

    public bool Speaks(HttpRequest request) => request.Path.StartsWithSegments(Prefix);

    public void Map(WebApplication app)
    {
        ModelHost host = app.Services.GetRequiredService<ModelHost>();
        RequestEvents events = app.Services.GetRequiredService<RequestEvents>();
        RouteGroupBuilder v1 = app.MapGroup(Prefix);
        v1.MapPost("/completions", (RequestDelegate)(http => AnswerAsync(http, host, events, CompletionCall.Read)));
        v1.MapPost("/chat/completions", (RequestDelegate)(http => AnswerAsync(http, host, events, ChatCall.Read)));
        v1.MapMethods("/models", Routes.Reading, (RequestDelegate)(http => ListModelsAsync(http, host)));
        v1.MapMethods("/models/{**id}", Routes.Reading, (RequestDelegate)(http => DescribeModelAsync(http, host)));
    }

    public Task WriteErrorAsync(HttpResponse response, RequestException error) =>
        JsonText.WriteAsync(response, FailureStatus.Of(error.Failure).Http, json => WriteError(json, error));

    /// <summary><c>{"error":{"message","type","param","code"}}</c>.</summary>
    public static void WriteError(Utf8JsonWriter json, RequestException error)
    {
        json.WriteStartObject();
        json.WriteStartObject("error");
        json.WriteString("message", error.Message);
        json.WriteString("type", FailureStatus.Of(error.Failure).Type);
        json.WriteString("param", error.Param);
        json.WriteString("code", error.Code);
        json.WriteEndObject();
        json.WriteEndObject();
    }

    /// <summary>Reads a request, runs it and writes its answer.</summary>
    private static async Task AnswerAsync(
        HttpContext http, ModelHost host, RequestEvents events, Func<Fields, ServedModel, CancellationToken, Call> read)
    {
        long arrival = Stopwatch.GetTimestamp();
        CancellationToken ct = http.RequestAborted;
        using RequestId id = RequestIdHeader.Enter(http, host);
        ServiceLevel headers = ServiceLevel.OfHeaders(name => http.Request.Headers[name]);
        (ServedModel model, Call call) =
            await events.ReadAsync(async () => await RequestBody.ReadAsync(http.Request, Read, ct));
        string tenant = Caller.Of(http);
        long? deadline = ClientDeadline.Of(name => http.Request.Headers[name], arrival, call.Parameters.Stream);
        Generation[] generations = Generation.Start(
            model, [.. call.Requests.Select(request => request.At(arrival, tenant, headers, deadline))], events);
        try
        {
            await new Answer(http, model, call, id, generations).SendAsync(ct);
        }
        finally
        {
            foreach (Generation generation in generations) generation.Dispose();
        }

        (ServedModel, Call) Read(JsonElement json)
        {
            Fields body = Fields.Of(json, "");
            ServedModel served = host.Require(body.String("model"));
            return (served, read(body, served, ct));
        }
    }

    private static Task ListModelsAsync(HttpContext http, ModelHost host)
    {
        ServedModel model = host.Require(null);
        return JsonText.WriteAsync(http.Response, StatusCodes.Status200OK, json =>
        {
            json.WriteStartObject();
            json.WriteString("object", "list");
            json.WriteStartArray("data");
            WriteModel(json, model);
            json.WriteEndArray();
            json.WriteEndObject();
        });
    }

    private static Task DescribeModelAsync(HttpContext http, ModelHost host)
    {
        // A slash in a name comes as it is or escaped, and stays as it came.
        string? id = ((string?)http.Request.RouteValues["id"])?.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase);
        ServedModel model = host.Require(id);
        return JsonText.WriteAsync(http.Response, StatusCodes.Status200OK, json => WriteModel(json, model));
    }

    private static void WriteModel(Utf8JsonWriter json, ServedModel model)
    {
        json.WriteStartObject();
        json.WriteString("id", model.Name);
        json.WriteString("object", "model");
        json.WriteNumber("created", model.Created.ToUnixTimeSeconds());
        json.WriteString("owned_by", "native");
        json.WriteString("root", model.Root);
        json.WriteNull("parent");
        json.WriteNumber("max_model_len", model.Info.MaxModelLength);
        json.WriteEndObject();
    }
}
