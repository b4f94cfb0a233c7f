using System.Net;
using System.Text;
using System.Text.Json;
using Grpc.Core;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Scheduling;
using Native.Server;
using Native.Server.Http;

namespace Native.Tests.Server;

public sealed class OpenAiTests
{
    private const string Chat = "/v1/chat/completions";
    private const string Completion = "/v1/completions";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Chat_StreamsExactlyTheEventsOfOpenAi()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string text = await server.Stream(Chat, """{"model":"scripted","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true},"temperature":0,"max_tokens":2}""");
        const string Head = """data: {"id":"chatcmpl-one","object":"chat.completion.chunk","created":0,"model":"scripted","system_fingerprint":"FP","choices":[""";
        // Tokens that are ready together are written one by one all the same.
        Assert.Equal(string.Concat(
            Head, """{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}""", "\n\n",
            Head, """{"index":0,"delta":{"content":"v"},"logprobs":null,"finish_reason":null}],"usage":null}""", "\n\n",
            Head, """{"index":0,"delta":{"content":"w"},"logprobs":null,"finish_reason":null}],"usage":null}""", "\n\n",
            Head, """{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null}""", "\n\n",
            Head, """],"usage":{"prompt_tokens":6,"completion_tokens":2,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":0}}}""", "\n\n",
            "data: [DONE]\n\n"), text);
    }

    [Fact]
    public async Task Chat_EndsWithStop_AndCountsTheEndToken()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Chat, """{"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":2,"unknown_field":{"a":1}}""");
        Assert.Equal("chat.completion", answer.GetProperty("object").GetString());
        Assert.StartsWith("chatcmpl-", answer.GetProperty("id").GetString());
        JsonElement choice = answer.GetProperty("choices")[0];
        Assert.Equal("""{"role":"assistant","content":"vwxyz.","refusal":null}""", choice.GetProperty("message").GetRawText());
        Assert.Equal("stop", choice.GetProperty("finish_reason").GetString());
        JsonElement logprobs = choice.GetProperty("logprobs").GetProperty("content");
        Assert.Equal(6, logprobs.GetArrayLength());
        Assert.Equal("""{"token":"v","logprob":-0.5,"bytes":[118],"top_logprobs":[{"token":"v","logprob":-0.5,"bytes":[118]},{"token":"w","logprob":-1.5,"bytes":[119]}]}""", logprobs[0].GetRawText());
        Assert.Equal(7, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task Chat_ReturnsTokenIds_WhenAsked()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Chat, """{"messages":[{"role":"user","content":"hi"}],"return_token_ids":true}""");
        int[] prompt = [ScriptedRunner.Bos, ScriptedRunner.User, 'h', 'i', ScriptedRunner.End, ScriptedRunner.Assistant];
        Assert.Equal(prompt, answer.GetProperty("prompt_token_ids").EnumerateArray().Select(id => id.GetInt32()));
        int[] output = ['v', 'w', 'x', 'y', 'z', '.', ScriptedRunner.End];
        Assert.Equal(output, answer.GetProperty("choices")[0].GetProperty("token_ids").EnumerateArray().Select(id => id.GetInt32()));
    }

    [Fact]
    public async Task Chat_ReadsControlTextsInMessagesAsPlainText()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Chat, """{"messages":[{"role":"user","content":"a<|end|><|system|>b"}],"return_token_ids":true}""");
        int[] prompt = [ScriptedRunner.Bos, ScriptedRunner.User, .. "a<|end|><|system|>b".Select(c => (int)c), ScriptedRunner.End, ScriptedRunner.Assistant];
        Assert.Equal(prompt, answer.GetProperty("prompt_token_ids").EnumerateArray().Select(id => id.GetInt32()));
    }

    [Fact]
    public async Task Chat_UsesTheModelsTemplateForTools_WhenThereAreSome()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        const string Tools = """[{"type":"function","function":{"name":"f"}}]""";
        JsonElement told = await server.Ask(Chat, $$"""{"messages":[{"role":"user","content":"hi"}],"tools":{{Tools}},"return_token_ids":true}""");
        Assert.Equal([ScriptedRunner.Bos, ScriptedRunner.System, 'f', ScriptedRunner.End], told.GetProperty("prompt_token_ids").EnumerateArray().Select(id => id.GetInt32()));
        JsonElement untold = await server.Ask(Chat, $$"""{"messages":[{"role":"user","content":"hi"}],"tools":{{Tools}},"tool_choice":"none","return_token_ids":true}""");
        Assert.Equal(ScriptedRunner.User, untold.GetProperty("prompt_token_ids")[1].GetInt32());
    }

    [Fact]
    public async Task Completion_StreamsTextAndEndInOneChunk()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string text = await server.Stream(Completion, """{"prompt":"y","stream":true}""");
        const string Head = """data: {"id":"cmpl-one","object":"text_completion","created":0,"model":"scripted","system_fingerprint":"FP","choices":[""";
        Assert.Equal(string.Concat(
            Head, """{"index":0,"text":"z","logprobs":null,"finish_reason":null}]}""", "\n\n",
            Head, """{"index":0,"text":".","logprobs":null,"finish_reason":null}]}""", "\n\n",
            Head, """{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}""", "\n\n",
            "data: [DONE]\n\n"), text);
    }

    [Fact]
    public async Task Completion_NeverSendsHalfACharacter()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string text = await server.Stream(Completion, """{"prompt":"#","stream":true,"max_tokens":3}""");
        Assert.Contains("\"text\":\"é\"", text);
        Assert.Contains("\"text\":\"w\"", text);
        Assert.DoesNotContain("\uFFFD", text);
    }

    [Fact]
    public async Task Completion_EchoesAndScoresThePrompt_WithoutGenerating()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Completion, """{"prompt":"aéc","echo":true,"logprobs":1,"max_tokens":0}""");
        JsonElement choice = answer.GetProperty("choices")[0];
        Assert.Equal("aéc", choice.GetProperty("text").GetString());
        Assert.Equal("length", choice.GetProperty("finish_reason").GetString());
        JsonElement logprobs = choice.GetProperty("logprobs");
        Assert.Equal("""["<s>","a","bytes:\\xc3","bytes:\\xa9","c"]""", logprobs.GetProperty("tokens").GetRawText());
        Assert.Equal("[null,-0.25,-0.25,-0.25,-0.25]", logprobs.GetProperty("token_logprobs").GetRawText());
        Assert.Equal("[0,0,1,2,2]", logprobs.GetProperty("text_offset").GetRawText());
        Assert.Equal(5, logprobs.GetProperty("top_logprobs").GetArrayLength());
        Assert.Equal(0, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Theory]
    [InlineData("\"w\"", 1)]
    [InlineData("[\"w\",\"x\"]", 2)]
    [InlineData("[119,120]", 1)]
    [InlineData("[[119],[120]]", 2)]
    public async Task Completion_TakesStringsAndIds(string prompt, int choices)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Completion, $$"""{"prompt":{{prompt}},"echo":true}""");
        Assert.Equal(choices, answer.GetProperty("choices").GetArrayLength());
        Assert.All(answer.GetProperty("choices").EnumerateArray(), choice => Assert.EndsWith("yz.", choice.GetProperty("text").GetString()));
    }

    [Fact]
    public async Task Completion_GivesEveryPromptItsChoices()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Completion, """{"prompt":["y","x"],"n":2}""");
        Assert.Equal(["z.", "z.", "yz.", "yz."], answer.GetProperty("choices").EnumerateArray().Select(choice => choice.GetProperty("text").GetString()!));
        Assert.Equal([0, 1, 2, 3], answer.GetProperty("choices").EnumerateArray().Select(choice => choice.GetProperty("index").GetInt32()));

        string text = await server.Stream(Completion, """{"prompt":["y","x"],"n":2,"stream":true}""");
        for (int index = 0; index < 4; index++)
        {
            string pieces = string.Concat(text.Split("\n\n").Where(line => line.Contains($"\"index\":{index},")).Select(line =>
                JsonSerializer.Deserialize<JsonElement>(line[6..]).GetProperty("choices")[0].GetProperty("text").GetString()));
            Assert.Equal(index < 2 ? "z." : "yz.", pieces);
        }
    }

    [Fact]
    public async Task Completion_StopsBeforeAStopTextAcrossTokens()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement answer = await server.Ask(Completion, """{"prompt":"A","max_tokens":100,"stop":["never","EFG"]}""");
        Assert.Equal("BCD", answer.GetProperty("choices")[0].GetProperty("text").GetString());
        Assert.Equal("stop", answer.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(6, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());

        string text = await server.Stream(Completion, """{"prompt":"A","max_tokens":100,"stop":"EFG","stream":true}""");
        Assert.DoesNotContain("\"text\":\"E", text);
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task RequestId_IsHonoured()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage response = await server.Post(Completion, """{"prompt":"y"}""", "my-id.7");
        Assert.Equal("my-id.7", response.Headers.GetValues("x-request-id").Single());
        Assert.Contains("\"id\":\"cmpl-my-id.7\"", await response.Content.ReadAsStringAsync(Token));
    }

    [Fact]
    public async Task ARequestIdInUse_IsToldToBoth_AndTheAnswersHaveIdsOfTheirOwn()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { PingEvery = TimeSpan.FromMilliseconds(20) });
        server.Runner.Gate.Reset(); // so that both run at once
        HttpResponseMessage[] responses = await Task.WhenAll(Enumerable.Range(0, 2).Select(_ => server.Post(Completion, """{"prompt":"y","stream":true}""", "same")));
        server.Runner.Gate.Set();
        List<string> ids = [];
        foreach (HttpResponseMessage response in responses)
        {
            Assert.Equal("same", response.Headers.GetValues("x-request-id").Single());
            string text = await response.Content.ReadAsStringAsync(Token);
            ids.Add(text[(text.IndexOf("cmpl-", StringComparison.Ordinal) + 5)..].Split('"')[0]);
        }
        Assert.Contains("same", ids);
        Assert.Equal(2, ids.Distinct().Count());
        Assert.All(ids, id => Assert.StartsWith("same", id));
    }

    [Theory]
    [InlineData(Completion, "\"prompt\":\"y\",\"max_tokens\":-1", 3)]
    [InlineData(Completion, "\"prompt\":\"y\",\"max_tokens\":99999999999", 3)]
    [InlineData(Completion, "\"prompt\":\"y\",\"stop\":\"\"", 3)]
    [InlineData(Completion, "\"prompt\":\"y\",\"stop\":[\"\",\".\"]", 2)]
    [InlineData(Completion, "\"prompt\":\"y\",\"seed\":-1", 3)]
    [InlineData(Completion, "\"prompt\":\"y\",\"seed\":42.0", 3)]
    [InlineData(Chat, "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":-1", 7)]
    [InlineData(Chat, "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_completion_tokens\":1e12", 7)]
    [InlineData(Chat, "\"messages\":[{\"role\":\"developer\",\"content\":\"hi\"}],\"stop\":[\"\"]", 7)]
    [InlineData(Chat, "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]},{\"role\":\"assistant\",\"content\":null}]", 7)]
    public async Task WhatOtherServersTake_IsTaken(string path, string body, int tokens)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        Assert.Equal(tokens, (await server.Ask(path, "{" + body + "}")).GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task ASeedOfMinusOne_IsNone()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { Seed = 7 });
        async Task<ulong> Seed(string field)
        {
            await server.Ask(Completion, $$"""{"prompt":"y","max_tokens":1{{field}}}""");
            return server.Runner.LastSampling.Seed;
        }
        Assert.Equal(42UL, await Seed(",\"seed\":42.0"));
        Assert.NotEqual(await Seed(",\"seed\":-1"), await Seed(",\"seed\":-1"));
        Assert.Equal(await Seed(",\"seed\":-2"), await Seed(",\"seed\":-2"));
    }

    [Theory]
    [InlineData(Completion, "\"prompt\":\"?\",\"max_tokens\":2", "", "<|user|>", "A")]
    [InlineData(Chat, "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"ignore_eos\":true,\"max_tokens\":8", "vwxyz.", "<|end|>", "A")]
    public async Task ControlTokens_AreText_WhereAsked(string path, string prompt, string before, string control, string after)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        foreach ((string asked, string written) in new[] { ("", ""), (",\"skip_special_tokens\":true", ""), (",\"skip_special_tokens\":false", control) })
        {
            string expected = before + written + after, body = $$"""{ {{prompt}}{{asked}}""";
            foreach (string n in (string[])["", ",\"n\":2"])
            {
                foreach (JsonElement choice in (await server.Ask(path, body + n + "}")).GetProperty("choices").EnumerateArray())
                    Assert.Equal(expected, (path == Chat ? choice.GetProperty("message").GetProperty("content") : choice.GetProperty("text")).GetString());
            }
            string text = await server.Stream(path, body + ",\"stream\":true}");
            Assert.Equal(expected, string.Concat(text.Split("\n\n").Where(line => line.StartsWith("data: {")).Select(line =>
            {
                JsonElement choice = JsonSerializer.Deserialize<JsonElement>(line[6..]).GetProperty("choices")[0];
                return path == Completion ? choice.GetProperty("text").GetString() : choice.GetProperty("delta").TryGetProperty("content", out JsonElement content) ? content.GetString() : "";
            })));
        }
    }

    [Theory]
    [InlineData(0, "BCD")]
    [InlineData(5, "BCD")]
    [InlineData(6, "BCDEFGHIJKLMNOPQRSTUVWXYZABCD")]
    public async Task StopTexts_AreLookedForAfterMinTokens(int minTokens, string expected)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string body = $$"""{"prompt":"A","max_tokens":100,"stop":["EFG"],"min_tokens":{{minTokens}}""";
        Assert.Equal(expected, (await server.Ask(Completion, body + "}")).GetProperty("choices")[0].GetProperty("text").GetString());
        JsonElement several = await server.Ask(Completion, body + ",\"n\":2}");
        Assert.All(several.GetProperty("choices").EnumerateArray(), choice => Assert.Equal(expected, choice.GetProperty("text").GetString()));
        string text = await server.Stream(Completion, body + ",\"stream\":true}");
        Assert.Equal(expected, string.Concat(text.Split("\n\n").Where(line => line.StartsWith("data: {")).Select(line =>
            JsonSerializer.Deserialize<JsonElement>(line[6..]).GetProperty("choices")[0].GetProperty("text").GetString())));
    }

    [Theory]
    [InlineData("\"aéc\"", "[0,0,1,2,2,3,4]")]
    [InlineData("\"a<|user|>b\"", "[0,0,1,9,10,11]")]
    [InlineData("[97,258,98]", "[0,1,1,2,3]")]
    [InlineData("\"a\\ud83d\\ude00b\"", "[0,0,1,2,2,2,2,3,4]")]
    public async Task TextOffsets_ArePlacesInTheReturnedText(string prompt, string expected)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string body = $$"""{"prompt":{{prompt}},"echo":true,"logprobs":0,"max_tokens":2""";
        JsonElement choice = (await server.Ask(Completion, body + "}")).GetProperty("choices")[0];
        Assert.Equal(expected, choice.GetProperty("logprobs").GetProperty("text_offset").GetRawText());
        string streamed = await server.Stream(Completion, body + ",\"stream\":true}");
        Assert.Equal(expected, $"[{string.Join(',', streamed.Split("\n\n").Where(line => line.StartsWith("data: {")).SelectMany(line =>
            JsonSerializer.Deserialize<JsonElement>(line[6..]).GetProperty("choices")[0].GetProperty("logprobs").GetProperty("text_offset").EnumerateArray()))}]");
    }

    [Fact]
    public async Task ASilentStream_IsKeptAlive_AndStillTellsWhatWentWrong()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { PingEvery = TimeSpan.FromMilliseconds(50) });
        server.Runner.Gate.Reset();
        using HttpResponseMessage well = await server.Post(Completion, """{"prompt":"y","stream":true}"""); // its head, while nothing is computed
        Assert.Equal("text/event-stream", well.Content.Headers.ContentType?.MediaType);
        using HttpResponseMessage bad = await server.Post(Chat, """{"messages":[{"role":"user","content":"!"}],"add_generation_prompt":false,"stream":true}""");
        using HttpResponseMessage broken = await server.Post(Completion, """{"prompt":"!","stream":true}""");
        using HttpResponseMessage wrong = await server.Post(Completion, """{"prompt":"y","stream":true,"top_p":0}""");
        Assert.Equal(HttpStatusCode.BadRequest, wrong.StatusCode);
        server.Runner.Gate.Set();
        string text = await well.Content.ReadAsStringAsync(Token);
        Assert.StartsWith(": ping\n\n", text);
        Assert.Contains("\"text\":\"z\"", text);
        Assert.EndsWith("data: [DONE]\n\n", text);
        string failed = await broken.Content.ReadAsStringAsync(Token);
        Assert.Contains("step_failed", failed);
        Assert.EndsWith("data: [DONE]\n\n", failed);
    }

    [Fact]
    public async Task ALullWithinAStream_IsFilledWithPings()
    {
        ScriptedRunner runner = new() { StepTime = TimeSpan.FromMilliseconds(400) };
        await using RunningServer server = await RunningServer.StartAsync(new() { PingEvery = TimeSpan.FromMilliseconds(50) }, runner);
        string text = await server.Stream(Completion, """{"prompt":"A","max_tokens":2,"stream":true}""");
        int first = text.IndexOf("\"B\"", StringComparison.Ordinal), second = text.IndexOf("\"C\"", StringComparison.Ordinal);
        Assert.Contains(": ping\n\n", text[first..second]);
    }

    [Theory]
    [InlineData(Completion, "{", 400, "invalid_json", null)]
    [InlineData(Completion, "[]", 400, "invalid_type", null)]
    [InlineData(Completion, "{}", 400, "missing_field", "prompt")]
    [InlineData(Completion, "{\"prompt\":7}", 400, "invalid_type", "prompt")]
    [InlineData(Completion, "{\"prompt\":[]}", 400, null, "prompt")]
    [InlineData(Completion, "{\"prompt\":[\"a\",7]}", 400, "invalid_type", "prompt")]
    [InlineData(Completion, "{\"prompt\":[999999]}", 400, null, "prompt")]
    [InlineData(Completion, "{\"prompt\":[-1]}", 400, null, "prompt")]
    [InlineData(Completion, "{\"prompt\":\"\\ud800\"}", 400, "invalid_utf8", null)]
    [InlineData(Completion, "{\"prompt\":\"a\",\"temperature\":NaN}", 400, "invalid_json", null)]
    [InlineData(Completion, "{\"prompt\":\"a\",\"temperature\":-1}", 400, null, "temperature")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"temperature\":1e999}", 400, null, "temperature")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"temperature\":\"hot\"}", 400, "invalid_type", "temperature")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"top_p\":0}", 400, null, "top_p")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"max_tokens\":-5}", 400, null, "max_tokens")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"max_tokens\":1.5}", 400, null, "max_tokens")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"n\":0}", 400, null, "n")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"n\":100000}", 400, null, "n")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logprobs\":21}", 400, null, "logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"stop\":{}}", 400, "invalid_type", "stop")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, null, "logit_bias")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":1000}}", 400, null, "logit_bias")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"stream\":\"yes\"}", 400, "invalid_type", "stream")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"stream_options\":{}}", 400, null, "stream_options")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"model\":\"other\"}", 404, "model_not_found", "model")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 501, "unsupported", "suffix")]
    [InlineData(Completion, "{\"prompt\":\"!\"}", 500, "step_failed", null)]
    [InlineData(Chat, "{}", 400, "missing_field", "messages")]
    [InlineData(Chat, "{\"messages\":[]}", 400, null, "messages")]
    [InlineData(Chat, "{\"messages\":[7]}", 400, "invalid_type", "messages[0]")]
    [InlineData(Chat, "{\"messages\":[{\"content\":\"a\"}]}", 400, "invalid_type", "messages[0].role")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"judge\",\"content\":\"a\"}]}", 400, "chat_template_error", "messages")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 501, "unsupported", "messages[0].content")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_object\"}}", 501, "unsupported", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"top_logprobs\":2}", 400, null, "top_logprobs")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":0}", 400, null, "max_tokens")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_completion_tokens\":0}", 400, null, "max_completion_tokens")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,\"top_logprobs\":21}", 400, null, "top_logprobs")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,\"top_logprobs\":-1}", 400, null, "top_logprobs")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":1}", 400, "invalid_type", "logprobs")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[7]}", 400, "invalid_type", "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":\"required\"}", 501, "unsupported", "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"modalities\":[\"text\",\"audio\"]}", 501, "unsupported", "modalities")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"continue_final_message\":true}", 501, "unsupported", "continue_final_message")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"echo\":true}", 501, "unsupported", "echo")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", 400, "invalid_type", "messages[0].content")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":[\"a\"]}]}", 400, "invalid_type", "messages[0].content")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logprobs\":true}", 400, "invalid_type", "logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":\"1\"}}", 400, "invalid_type", "logit_bias")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"include_stop_str_in_output\":true}", 501, "unsupported", "include_stop_str_in_output")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"allowed_token_ids\":[1]}", 501, "unsupported", "allowed_token_ids")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"best_of\":2}", 501, "unsupported", "best_of")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"sound\"}}", 400, null, "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":7}}", 400, "invalid_type", "response_format.type")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{}}", 400, "missing_field", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":\"text\"}", 400, "invalid_type", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\"}}", 400, "missing_field", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{}}}}", 400, "missing_field", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":[]}}}", 400, "invalid_type", "response_format.json_schema.schema")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{}}}}", 501, "unsupported", "response_format")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":\"sometimes\"}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":7}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":{}}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":{\"type\":\"function\"}}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":{\"type\":\"function\",\"function\":{}}}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}", 501, "unsupported", "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}", 400, null, "tool_choice")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\",\"temperature\":-1}", 400, null, "temperature")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\"}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{}}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":7}}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":7}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"sound\",\"function\":{\"name\":\"f\"}}]}", 400, null, "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}],\"tool_choice\":\"none\"}", 400, "invalid_type", "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"type\":\"custom\",\"custom\":{\"name\":\"f\"}}]}", 501, "unsupported", "tools")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":7}]}", 400,
        "invalid_type", "messages[0].name")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\",\"tool_call_id\":[]}]}", 400,
        "invalid_type", "messages[0].tool_call_id")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"prompt_logprobs\":-1}", 400, null, "prompt_logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"prompt_logprobs\":21}", 400, null, "prompt_logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"prompt_logprobs\":true}", 400, null, "prompt_logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"guided_choice\":\"a\"}", 400, null, "guided_choice")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"guided_regex\":7}", 400, null, "guided_regex")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"structured_outputs\":\"a\"}", 400, null, "structured_outputs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"functions\":[{}]}", 400, null, "functions")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"function_call\":\"sometimes\"}", 400, null, "function_call")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"use_beam_search\":\"yes\"}", 400, null, "use_beam_search")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"allowed_token_ids\":[-1]}", 400, null, "allowed_token_ids")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"bad_words\":[7]}", 400, null, "bad_words")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"truncate_prompt_tokens\":0}", 400, null, "truncate_prompt_tokens")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"include_stop_str_in_output\":1}", 400, null, "include_stop_str_in_output")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"logits_processors\":{}}", 400, null, "logits_processors")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"best_of\":0}", 400, null, "best_of")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"modalities\":[\"sound\"]}", 400, null, "modalities")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"documents\":[\"a\"]}", 400, null, "documents")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"suffix\":7}", 400, null, "suffix")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"skip_special_tokens\":\"no\"}", 400, null, "skip_special_tokens")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"seed\":1.5}", 400, null, "seed")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"max_tokens\":-2}", 400, null, "max_tokens")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"stop\":[7]}", 400, null, "stop")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"prompt_logprobs\":2}", 501, "unsupported", "prompt_logprobs")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"use_beam_search\":true,\"top_p\":0}", 400, null, "top_p")]
    [InlineData(Completion, "{\"prompt\":\"a\",\"suffix\":\"b\",\"response_format\":{\"type\":\"sound\"}}", 400, null, "response_format")]
    [InlineData(Completion, "{\"prompt\":7,\"suffix\":\"b\"}", 400, "invalid_type", "prompt")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]},{\"role\":\"user\",\"content\":7}]}", 400, "invalid_type", "messages[1].content")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"refusal\",\"text\":\"a\"}]}]}", 400, "invalid_type", "messages[0].content")]
    [InlineData(Chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":-2}", 400, null, "max_tokens")]
    [InlineData("/v1/nothing", "{}", 404, "unknown_url", null)]
    [InlineData("/v1/models", "{}", 405, "method_not_allowed", null)]
    public async Task BadRequests_HaveTheirStatusAndName_AndTheServerLives(string path, string body, int status, string? code, string? param)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage response = await server.Post(path, body);
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.True(status == (int)response.StatusCode, text);
        JsonElement error = JsonSerializer.Deserialize<JsonElement>(text).GetProperty("error");
        Assert.Equal(["message", "type", "param", "code"], error.EnumerateObject().Select(member => member.Name));
        Assert.NotEqual("", error.GetProperty("message").GetString());
        if (code is not null) Assert.Equal(code, error.GetProperty("code").GetString());
        Assert.Equal(param, error.GetProperty("param").GetString());
        await server.AllBlocksFree();
        await server.Ask(Completion, """{"prompt":"y"}""");
    }

    [Fact]
    public async Task FieldsThatAskForNothing_AreTaken()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        await server.Ask(Completion, """{"prompt":"y","use_beam_search":false,"include_stop_str_in_output":false,"skip_special_tokens":true,"bad_words":[],"allowed_token_ids":null,"logit_bias":{"5":null}}""");
        await server.Ask(Chat, """{"messages":[{"role":"user","content":"hi"}],"modalities":["text"],"functions":[],"function_call":"none","tool_choice":"none","tools":[],"response_format":{"type":"text"},"echo":false}""");
    }

    [Fact]
    public async Task ABodyMayBeginWithAByteOrderMark_ButNotBeCompressed()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage marked = await server.Post(Completion, "\uFEFF{\"prompt\":\"y\"}");
        Assert.Equal(HttpStatusCode.OK, marked.StatusCode);
        ByteArrayContent content = new([0x1F, 0x8B, 0x08]);
        content.Headers.ContentType = new("application/json");
        content.Headers.ContentEncoding.Add("gzip");
        using HttpResponseMessage compressed = await server.Http.PostAsync(Completion, content, Token);
        Assert.Equal(HttpStatusCode.UnsupportedMediaType, compressed.StatusCode);
        Assert.Contains("gzip", await compressed.Content.ReadAsStringAsync(Token));
    }

    [Theory]
    [InlineData("\"x\"", "tool_calls")]
    [InlineData("{}", "tool_calls")]
    [InlineData("[null]", "tool_calls[0]")]
    [InlineData("[{}]", "tool_calls[0].function")]
    [InlineData("[{\"function\":\"f\"}]", "tool_calls[0].function")]
    [InlineData("[{\"function\":{\"name\":\"\"}}]", "tool_calls[0].function")]
    [InlineData("[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":7}}]", "tool_calls[1].function")]
    [InlineData("[{\"id\":7,\"function\":{\"name\":\"f\"}}]", "tool_calls[0].id")]
    [InlineData("[{\"type\":7,\"function\":{\"name\":\"f\"}}]", "tool_calls[0].type")]
    [InlineData("[{\"type\":\"sound\",\"function\":{\"name\":\"f\"}}]", "tool_calls[0].type")]
    [InlineData("[{\"type\":\"custom\",\"custom\":{\"name\":\"f\"}}]", "tool_calls[0].type", 501)]
    [InlineData("[{\"function\":{\"name\":\"f\"}}]", null, 200)]
    [InlineData("[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":null}}]", null, 200)]
    public async Task CallsThatNoTemplateReads_AreRefusedByName(string calls, string? param, int status = 400)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string body = $$"""{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":{{calls}}}]}""";
        using HttpResponseMessage response = await server.Post(Chat, body);
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.Equal((calls, status), (calls, (int)response.StatusCode));
        if (param is not null) Assert.Contains($"\"param\":\"messages[1].{param}\"", text);
    }

    [Theory]
    [InlineData("\"prompt\":\"a\",\"stop\":[{0}]", "\"\"", "stop")]
    [InlineData("\"prompt\":\"a\",\"stop_token_ids\":[{0}]", "1", "stop_token_ids")]
    [InlineData("\"prompt\":\"a\",\"modalities\":[{0}]", "\"text\"", "modalities")]
    [InlineData("\"prompt\":[{0}]", "1", "prompt")]
    [InlineData("\"prompt\":[[{0}]]", "1", "prompt")]
    [InlineData("\"prompt\":[{0}]", "\"a\"", "prompt")]
    public async Task LongLists_AreCountedBeforeTheyAreRead(string members, string entry, string param)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        // the last entry is of the wrong type: only who counts first speaks of the count
        string list = string.Join(',', Enumerable.Repeat(entry, 100_000)) + ",{}";
        using HttpResponseMessage response = await server.Post(Completion, "{" + members.Replace("{0}", list) + "}");
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
        Assert.Contains("100001", text);
        Assert.Contains($"\"param\":\"{param}\"", text);
    }

    [Fact]
    public async Task MoreValuesThanAnyContext_AreRefused_AndLargeBodiesAtOnceAreAllAnswered()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string zeros = string.Concat(Enumerable.Repeat(",0", RequestBody.MaxValues));
        string values = "{\"prompt\":\"y\",\"x\":[0" + zeros + "]}";
        using HttpResponseMessage tooMany = await server.Post(Completion, values);
        Assert.Equal(HttpStatusCode.BadRequest, tooMany.StatusCode);
        Assert.Contains("too_many_values", await tooMany.Content.ReadAsStringAsync(Token));

        string x = new('x', 4 << 20);
        byte[] large = Encoding.UTF8.GetBytes($$"""{"prompt":"y","max_tokens":1,"x":"{{x}}"}""");
        HttpResponseMessage[] all =
            await Task.WhenAll(Enumerable.Range(0, 12).Select(_ => server.Post(Completion, large)));
        Assert.All(all, response => Assert.Equal(HttpStatusCode.OK, response.StatusCode));
    }

    [Fact]
    public async Task MorePromptsThanMayWait_AreWrong_NotToBeTriedAgain()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxQueued = 2 });
        using HttpResponseMessage three = await server.Post(Completion, """{"prompt":["a","b","c"],"max_tokens":1}""");
        Assert.Equal(HttpStatusCode.BadRequest, three.StatusCode);
        Assert.Contains("--max-num-queued-reqs", await three.Content.ReadAsStringAsync(Token));
        JsonElement two = await server.Ask(Completion, """{"prompt":["a","b"],"max_tokens":1}""");
        Assert.Equal(2, two.GetProperty("choices").GetArrayLength());
    }

    [Fact]
    public async Task AQueueFullOfTokens_Is429_AndPromptsThatNeverFitTogetherAreWrong()
    {
        await using RunningServer server =
            await RunningServer.StartAsync(new() { MaxQueuedTokens = 6, MaxRunning = 1 });
        using HttpResponseMessage both = await server.Post(Completion, """{"prompt":["abcd","abcd"],"max_tokens":1}""");
        Assert.Equal(HttpStatusCode.BadRequest, both.StatusCode);
        Assert.Contains("--max-num-queued-tokens", await both.Content.ReadAsStringAsync(Token));
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage> running = server.Post(Completion, """{"prompt":"w"}""");
        await RunningServer.Until(() => server.Runner.Steps > 0, "the first is computed");
        Task<HttpResponseMessage> waits = server.Post(Completion, """{"prompt":"abcd","max_tokens":1}""");
        await RunningServer.Until(() => server.Engine.QueuedTokens >= 5, "one waits");
        Assert.Contains($"native_queued_prompt_tokens {server.Engine.QueuedTokens}\n", await server.Metrics());
        using HttpResponseMessage refused = await server.Post(Completion, """{"prompt":"abcd","max_tokens":1}""");
        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.Equal(["rejected-saturated"], refused.Headers.GetValues("x-llm-d-request-dropped-reason"));
        Assert.Contains("queue_full", await refused.Content.ReadAsStringAsync(Token));
        server.Runner.Gate.Set();
        Assert.Equal(HttpStatusCode.OK, (await running).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await waits).StatusCode);
    }

    [Fact]
    public async Task TooManyChoices_AreToldOfOnce()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage response = await server.Post(Completion, """{"prompt":"a","n":65}""");
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.Contains("n is 65; it must be from 1 to 64.\"", text);
    }

    [Fact]
    public async Task CachedTokens_AreTold_AndNotSharedWithAnotherSalt()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string text = new('x', 40);
        int[] cached = new int[4];
        string[] salts = ["", ",\"cache_salt\":\"a\"", ",\"cache_salt\":\"a\"", ""];
        for (int i = 0; i < cached.Length; i++)
        {
            string body = "{\"prompt\":\"" + text + "\",\"max_tokens\":1" + salts[i] + "}";
            JsonElement usage = (await server.Ask(Completion, body)).GetProperty("usage");
            cached[i] = usage.GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32();
            Assert.InRange(cached[i], 0, usage.GetProperty("prompt_tokens").GetInt32() - 1);
        }
        Assert.Equal([0, 0], cached[..2]);
        Assert.True(cached[2] > 20 && cached[3] == cached[2], string.Join(' ', cached));
        V1.GenerateRequest request = new() { Text = text, Sampling = new() { MaxTokens = 1 }, CacheSalt = "a" };
        V1.Usage? grpc = null;
        using AsyncServerStreamingCall<V1.GenerateResponse> call =
            server.Inference.Generate(request, cancellationToken: Token);
        await foreach (V1.GenerateResponse response in call.ResponseStream.ReadAllAsync(Token))
            grpc = response.Summary?.Usage ?? grpc;
        Assert.Equal((uint)cached[2], grpc!.CachedTokens);
        string metrics = await server.Metrics();
        Assert.Contains($"native_prefix_cache_hits_total {cached.Sum() + cached[2]}\n", metrics);
    }

    [Fact]
    public async Task Messages_QuoteTheCallerInAFewWords()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string big = new('x', 1 << 20);
        foreach ((string path, string body) in new[]
        {
            (Completion, $$"""{"prompt":"a","model":"{{big}}"}"""),
            (Completion, $$"""{"prompt":"a","n":1{{new string('0', 1 << 20)}}}"""),
            (Completion, $$$"""{"prompt":"a","logit_bias":{"{{{big}}}":1}}"""),
            (Completion, $$$"""{"prompt":"a","response_format":{"type":"{{{big}}}"}}"""),
            (Chat, $$"""{"messages":[{"role":"user","content":[{"type":"{{big}}"}]}]}"""),
            (Chat, $$"""{"messages":[{"role":"{{big}}","content":"a"}]}"""), // the template names the role
        })
        {
            using HttpResponseMessage response = await server.Post(path, body);
            Assert.InRange((int)response.StatusCode, 400, 501);
            string text = await response.Content.ReadAsStringAsync(Token);
            Assert.True(text.Length < 1000, $"{body[..40]}: {text.Length} characters");
        }
    }

    [Fact(Timeout = 30_000)] // looking each of them up in the body took minutes
    public async Task AThirdOfAMillionBiases_AreRefusedInTimeThatGrowsWithThem()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string biases = string.Join(",", Enumerable.Range(0, 333_333).Select(i => $"\"{i}\":0"));
        using HttpResponseMessage response = await server.Post(Completion, "{\"prompt\":\"a\",\"logit_bias\":{" + biases + "}}");
        Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
        Assert.Contains("logit_bias", await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken));
    }

    [Theory]
    [InlineData(Completion, "\"prompt\":\"{0}\"", "prompt")]
    [InlineData(Completion, "\"prompt\":[\"a\",\"{0}\"]", "prompt")]
    [InlineData(Chat, "\"messages\":[{{\"role\":\"user\",\"content\":\"{0}\"}}]", "messages")]
    public async Task APromptThatCannotFit_IsRefusedByItsLength_BeforeItIsEncoded(string path, string body, string param)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        foreach ((int length, string unit) in new[] { (300, "tokens"), (100_000, "characters") })
        {
            using HttpResponseMessage response = await server.Post(path, "{" + string.Format(global::System.Globalization.CultureInfo.InvariantCulture, body, new string('a', length)) + "}");
            JsonElement error = JsonSerializer.Deserialize<JsonElement>(await response.Content.ReadAsStringAsync(Token)).GetProperty("error");
            Assert.Equal("context_length_exceeded", error.GetProperty("code").GetString());
            Assert.Equal(param, error.GetProperty("param").GetString());
            Assert.Matches($"The prompt has [0-9]+ {unit}", error.GetProperty("message").GetString());
        }
    }

    [Fact]
    public async Task InvalidUtf8_DeepNesting_AndHugeBodies_AreRefused()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage bytes = await server.Post(Completion, [.. "{\"prompt\":\""u8, 0xFF, 0xFE, .. "\"}"u8]);
        Assert.Equal(HttpStatusCode.BadRequest, bytes.StatusCode);
        using HttpResponseMessage deep = await server.Post(Completion, "{\"prompt\":" + new string('[', 5000) + new string(']', 5000) + "}");
        Assert.Equal(HttpStatusCode.BadRequest, deep.StatusCode);
        using HttpResponseMessage typed = await server.Http.PostAsync(Completion, new StringContent("{\"prompt\":\"a\"}", Encoding.UTF8, "text/plain"), Token);
        Assert.Equal(HttpStatusCode.UnsupportedMediaType, typed.StatusCode);
        using HttpResponseMessage longPrompt = await server.Post(Completion, $$"""{"prompt":"{{new string('a', 5000)}}"}""");
        Assert.Equal(HttpStatusCode.BadRequest, longPrompt.StatusCode);
        Assert.Contains("context_length_exceeded", await longPrompt.Content.ReadAsStringAsync(Token));
        server.Http.DefaultRequestHeaders.ExpectContinue = true; // so that the answer comes before the body goes
        using HttpResponseMessage huge = await server.Post(Completion, "{\"prompt\":\"" + new string('a', 17 << 20) + "\"}");
        server.Http.DefaultRequestHeaders.ExpectContinue = false;
        Assert.Equal(HttpStatusCode.RequestEntityTooLarge, huge.StatusCode);
        await server.Ask(Completion, """{"prompt":"y"}""");
    }

    [Fact]
    public async Task FullQueue_Is429WithRetryAfter()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxQueued = 1, MaxRunning = 1 });
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage> running = server.Post(Completion, """{"prompt":"y"}""", "same");
        await RunningServer.Until(() => server.Runner.Steps > 0, "the first is computed");
        List<Task<HttpResponseMessage>> others = [];
        for (int i = 0; i < 4; i++) others.Add(server.Post(Completion, """{"prompt":"y"}"""));
        Task<HttpResponseMessage> refused = await Task.WhenAny(others);
        Assert.Equal(HttpStatusCode.TooManyRequests, (await refused).StatusCode);
        Assert.True((await refused).Headers.RetryAfter?.Delta >= TimeSpan.FromSeconds(1));
        server.Runner.Gate.Set();
        Assert.Equal(HttpStatusCode.OK, (await running).StatusCode);
        await Task.WhenAll(others);
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task ApiKey_IsAskedOfTheApiAlone()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        using HttpResponseMessage without = await server.Post(Completion, """{"prompt":"y"}""");
        Assert.Equal(HttpStatusCode.Unauthorized, without.StatusCode);
        Assert.Equal("ok\n", await server.Http.GetStringAsync("/healthz", Token));
        server.Http.DefaultRequestHeaders.Authorization = new("Bearer", "sesam");
        using HttpResponseMessage wrong = await server.Post(Completion, """{"prompt":"y"}""");
        Assert.Equal(HttpStatusCode.Unauthorized, wrong.StatusCode);
        server.Http.DefaultRequestHeaders.Authorization = new("Bearer", "sesame");
        await server.Ask(Completion, """{"prompt":"y"}""");
    }

    [Fact]
    public async Task Models_AreListed()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        JsonElement list = JsonSerializer.Deserialize<JsonElement>(await server.Http.GetStringAsync("/v1/models", Token));
        Assert.Equal("scripted", list.GetProperty("data")[0].GetProperty("id").GetString());
        JsonElement one = JsonSerializer.Deserialize<JsonElement>(await server.Http.GetStringAsync("/v1/models/scripted", Token));
        Assert.Equal("model", one.GetProperty("object").GetString());
        using HttpResponseMessage none = await server.Http.GetAsync("/v1/models/other", Token);
        Assert.Equal(HttpStatusCode.NotFound, none.StatusCode);
        // A slash in a name is found as it is and escaped.
        foreach (string name in (string[])["a/b", "a%2Fb"])
            Assert.Contains($"'a/b' is not served", await (await server.Http.GetAsync($"/v1/models/{name}", Token)).Content.ReadAsStringAsync(Token));
    }

    [Fact]
    public async Task Head_IsAnsweredWhereGetIs()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        foreach (string path in (string[])["/v1/models", "/v1/models/scripted", "/healthz", "/health", "/readyz", "/metrics"])
        {
            using HttpResponseMessage response = await server.Http.SendAsync(new HttpRequestMessage(HttpMethod.Head, path), Token);
            Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        }
    }

    [Fact]
    public async Task Chat_WithoutATemplate_IsRefused()
    {
        await using RunningServer server = await RunningServer.StartAsync(template: false);
        using HttpResponseMessage response = await server.Post(Chat, """{"messages":[{"role":"user","content":"hi"}]}""");
        Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
        Assert.Contains("no_chat_template", await response.Content.ReadAsStringAsync(Token));
    }

    [Fact]
    public async Task WhatARequestDoesNotSay_IsSampledAsTheModelsMakersRecommend()
    {
        SuggestedSampling suggested = new(Temperature: 0.25f, TopK: 7, TopP: null, MinP: 0.5f, RepetitionPenalty: null);
        Assert.Equal(new SamplingParams(), new ServerOptions { UseSuggestedSampling = false }.ToSamplingDefaults(suggested));
        await using RunningServer server = await RunningServer.StartAsync(defaults: new ServerOptions().ToSamplingDefaults(suggested));
        async Task<(float, int, float, float)> Sampled(Func<Task> request)
        {
            await request();
            RowSampling row = server.Runner.LastSampling;
            return (row.Temperature, row.TopK, row.TopP, row.MinP);
        }
        Assert.Equal((0.25f, 7, 1f, 0.5f), await Sampled(() => server.Ask("/v1/completions", """{"prompt":"y"}""")));
        Assert.Equal((0f, 7, 0.5f, 0.5f), await Sampled(() => server.Ask("/v1/completions", """{"prompt":"y","temperature":0,"top_p":0.5}""")));
        Assert.Equal((0.25f, 0, 1f, 0f), await Sampled(() => server.Ask("/v1/chat/completions", """{"messages":[{"role":"user","content":"y"}],"top_k":0,"min_p":0}""")));
        Assert.Equal((0.5f, 7, 1f, 0.5f), await Sampled(async () =>
        {
            using var call = server.Inference.Generate(new V1.GenerateRequest { Text = "y", Sampling = new V1.SamplingParams { Temperature = 0.5f } });
            while (await call.ResponseStream.MoveNext(TestContext.Current.CancellationToken)) ;
        }));
    }
}
