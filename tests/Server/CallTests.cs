using System.Text.Json;
using Native.Server.Grpc;
using Native.Server.Http;
using Native.Server.OpenAi;
using Native.Server.Serving;
using Native.V1;
using EngineOptions = Native.Scheduling.EngineOptions;

namespace Native.Tests.Server;

/// <summary>Requests are read without a connection: the same fields and model give the same call.</summary>
public sealed class CallTests : IDisposable
{
    private readonly ServedModel _model;

    public CallTests()
    {
        ScriptedRunner runner = new();
        _model = new ServedModel(
            "scripted", runner, ScriptedRunner.Tokenizer(template: true), new(),
            new EngineOptions { MaxRunning = runner.Info.MaxSequences });
    }

    public void Dispose() => _model.Dispose();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static Fields Body(string json) => Fields.Of(JsonSerializer.Deserialize<JsonElement>(json), "");

    private static int[] IdsOf(TextRequest request) => request.Tokens.Ids.ToArray();

    private static (int? MaxTokens, int TopK, int N) LimitsOf(TextRequest request) =>
        (request.Tokens.Sampling.MaxTokens, request.Tokens.Sampling.TopK, request.Tokens.Sampling.N);

    [Fact]
    public void AChat_IsReadTheSameWayByEveryProtocol()
    {
        Call call = ChatCall.Read(Body("""
            {"messages":[{"role":"user","content":"hi"}],"max_completion_tokens":5,
             "stop":["a","b"],"top_k":3,"n":2,"stream":true}
            """), _model, Token);
        TextRequest request = Assert.Single(call.Requests);
        Assert.Equal("messages", request.PromptField);
        Assert.Equal((5, 3, 2), LimitsOf(request));
        Assert.Equal(["a", "b"], request.Stop);
        Assert.True(call.Parameters.Stream);
        Assert.Null(call.Echo);

        ChatRequest message = new()
        {
            Messages = { new ChatMessage { Role = "user", Content = "hi" } },
            Sampling = new SamplingParams { MaxTokens = 5, Stop = { "a", "b" }, TopK = 3, N = 2 },
        };
        TextRequest same = MessageReader.Read(message, _model, Token);
        Assert.Equal(request.Tokens.Ids.ToArray(), same.Tokens.Ids.ToArray());
        Assert.Equal(request.Stop, same.Stop);
        Assert.Equal((5, 3, 2), LimitsOf(same));
    }

    [Fact]
    public void ACompletion_HasARequestForEachPrompt()
    {
        Call call = CompletionCall.Read(Body("""{"prompt":["y",[65,66]],"echo":true,"logprobs":1}"""), _model, Token);
        Assert.Equal([[ScriptedRunner.Bos, 'y'], [65, 66]], call.Requests.Select(IdsOf));
        Assert.Equal(["y", "AB"], call.Echo!.Select(echo => echo.Text));
        Assert.All(call.Requests, request =>
        {
            Assert.Equal((16, 0, 1), LimitsOf(request));
            Assert.Equal((1, 1), (request.Tokens.Sampling.Logprobs, request.Tokens.Sampling.PromptLogprobs));
        });
        Assert.Equal(IdsOf(call.Requests[0]), IdsOf(MessageReader.Read(new GenerateRequest { Text = "y" }, _model)));
    }

    [Fact]
    public void WhatIsWrong_IsThrown_BeforeAnythingRuns()
    {
        void Refused(string param, Func<object> read) =>
            Assert.Equal(param, Assert.Throws<RequestException>(read).Param);
        Fields chat = Body("""{"messages":[{"role":"user","content":"hi"}],"top_logprobs":1}""");
        Refused("top_logprobs", () => ChatCall.Read(chat, _model, Token));
        Refused("prompt", () => CompletionCall.Read(Body("{}"), _model, Token));
        Refused("prompt", () => MessageReader.Read(new GenerateRequest(), _model));
        Assert.Equal((0L, 0L), (_model.Engine.Metrics.Running, _model.Engine.Metrics.Waiting));
    }

    [Fact]
    public async Task APiece_CarriesItsTextAsContent()
    {
        TextRequest request = MessageReader.Read(new GenerateRequest { Text = "y" }, _model);
        using Generation generation = Generation.Start(_model, [request])[0];
        List<(Channel Channel, string Text)> parts = [];
        while (await generation.WaitAsync(TestContext.Current.CancellationToken))
        {
            while (generation.TryRead(out Piece piece))
            {
                string content = "";
                foreach (Part part in piece.Parts.Span)
                {
                    parts.Add((part.Channel, part.Text));
                    content += part.Text;
                }
                Assert.Equal(content, piece.Content);
            }
        }
        Assert.Equal([(Channel.Content, "z"), (Channel.Content, ".")], parts);
    }
}
