using System.Text.Json;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.OpenAi;
using Native.Server.Serving;

namespace Native.Tests.Server;

/// <summary>OpenAI's <c>service_tier</c>: who goes first, what is told, what contradicts it.</summary>
public sealed class ServiceTierTests : IDisposable
{
    private readonly ServedModel _model = Model(SchedulingPolicy.Slo);

    public void Dispose() => _model.Dispose();

    [Theory]
    [InlineData("", null, null, null)]
    [InlineData("\"service_tier\":null", null, null, null)]
    [InlineData("\"service_tier\":\"auto\"", "default", null, null)]
    [InlineData("\"service_tier\":\"default\"", "default", null, null)]
    [InlineData("\"service_tier\":\"scale\"", "default", null, null)]
    [InlineData("\"service_tier\":\"flex\"", "flex", RequestClass.Batch, null)]
    [InlineData("\"service_tier\":\"priority\"", "priority", null, -1)]
    [InlineData("\"service_tier\":\"fast\"", "priority", null, -1)]
    [InlineData("\"service_tier\":\"priority\",\"priority\":-9", "priority", null, -9)]
    [InlineData("\"service_tier\":\"flex\",\"priority\":4", "flex", RequestClass.Batch, 4)]
    [InlineData("\"service_tier\":\"flex\",\"slo\":{\"class\":\"batch\"}", "flex", RequestClass.Batch, null)]
    [InlineData("\"service_tier\":\"auto\",\"slo\":{\"class\":\"batch\"}", "flex", RequestClass.Batch, null)]
    [InlineData("\"service_tier\":\"priority\",\"slo\":{\"class\":\"online\"}", "priority", RequestClass.Online, -1)]
    [InlineData("\"slo\":{\"class\":\"batch\"}", null, RequestClass.Batch, null)]
    public void ATier_IsAClassOrAPriority_InChatsAndCompletions(
        string fields, string? used, RequestClass? requestClass, int? priority)
    {
        foreach (Call call in (Call[])[Completion(fields, _model), Chat(fields, _model)])
        {
            Assert.Equal(used, call.Parameters.Tier);
            ServiceLevel level = Assert.Single(call.Requests).Level;
            Assert.Equal((requestClass, priority), (level.Class, level.Priority));
        }
    }

    [Theory]
    [InlineData("\"service_tier\":\"turbo\"", "turbo")]
    [InlineData("\"service_tier\":\"\"", "priority or fast")]
    [InlineData("\"service_tier\":1", "a string")]
    [InlineData("\"service_tier\":\"flex\",\"slo\":{\"class\":\"online\"}", "'slo.class' is online")]
    [InlineData("\"service_tier\":\"priority\",\"slo\":{\"class\":\"batch\"}", "'slo.class' is batch")]
    [InlineData("\"service_tier\":\"default\",\"slo\":{\"class\":\"batch\"}", "'slo.class' is batch")]
    [InlineData("\"service_tier\":\"fast\",\"priority\":0", "'priority' is 0")]
    public void WhatIsNoTier_OrContradictsAnotherField_IsRefused(string fields, string told)
    {
        foreach (Action read in (Action[])[() => Completion(fields, _model), () => Chat(fields, _model)])
        {
            RequestException wrong = Assert.Throws<RequestException>(read);
            Assert.Equal((Failure.InvalidArgument, "service_tier"), (wrong.Failure, wrong.Param));
            Assert.Contains(told, wrong.Message);
        }
    }

    [Fact]
    public void FirstComeFirstServed_HasOneTier()
    {
        using ServedModel model = Model(SchedulingPolicy.Fcfs);
        Assert.Equal("default", Completion("\"service_tier\":\"priority\"", model).Parameters.Tier);
        Assert.Equal("default", Completion("\"service_tier\":\"flex\"", model).Parameters.Tier);
    }

    [Fact]
    public async Task TheTierUsed_IsToldInAnswersAndChunks_WhereOneWasAskedFor()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        const string Messages = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":2";
        foreach ((string path, string body) in ((string, string)[])[
            ("/v1/chat/completions", Messages), ("/v1/completions", "{\"prompt\":\"y\",\"max_tokens\":2")])
        {
            JsonElement plain = await server.Ask(path, body + "}");
            Assert.False(plain.TryGetProperty("service_tier", out _));
            JsonElement told = await server.Ask(path, body + ",\"service_tier\":\"flex\"}");
            Assert.Equal("flex", told.GetProperty("service_tier").GetString());
            string stream = await server.Stream(path, body + ",\"service_tier\":\"fast\",\"stream\":true}");
            string[] chunks = [.. stream.Split("\n\n").Where(e => e.StartsWith("data: {", StringComparison.Ordinal))];
            Assert.NotEmpty(chunks);
            Assert.All(chunks, chunk => Assert.Contains("\"service_tier\":\"priority\"", chunk));
        }
    }

    private static ServedModel Model(SchedulingPolicy policy)
    {
        ScriptedRunner runner = new();
        EngineOptions options = new() { MaxRunning = runner.Info.MaxSequences, Policy = policy };
        return new ServedModel("scripted", runner, ScriptedRunner.Tokenizer(template: true), new(), options);
    }

    private static Call Completion(string fields, ServedModel model) =>
        CompletionCall.Read(Body("\"prompt\":\"y\"", fields), model, TestContext.Current.CancellationToken);

    private static Call Chat(string fields, ServedModel model) =>
        ChatCall.Read(Body("\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]", fields), model,
            TestContext.Current.CancellationToken);

    private static Fields Body(string prompt, string fields) => Fields.Of(
        JsonSerializer.Deserialize<JsonElement>($"{{{prompt}{(fields.Length > 0 ? "," : "")}{fields}}}"), "");
}
